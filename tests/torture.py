"""Kill runs again and again, at random moments and in the middle of writes; what they end with must be what they end
with undisturbed.

    python tests/torture.py [kills [seed]]        # 100 kills; make torture

`tests/test_kill.py` does the same with a few. Every attempt is a process of its own, forked from a server that has
imported kit once, and killed by SIGKILL. Of several methods in turn: what resumes differs between one level, two
levels, rewards and choice blocks. Every fifth run is one search on two ranks, of which the first, the second or both
are killed; the other has to end by itself.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [path for path in (str(TESTS.parent), str(TESTS)) if path not in sys.path]

import torch  # noqa: E402
from tests_micro import assert_same_run, micro_config, register_micro  # noqa: E402

import kit  # noqa: E402
from kit import Run  # noqa: E402
from kit.search.progress import Silent  # noqa: E402

METHODS = ("dha", "daas", "autohas", "diffautoml")
EPOCHS = 4
PATIENCE = 120  # seconds for a rank whose neighbour was killed
WRITES = 12  # the kill may come at so many writes: those of about two epochs


def configuration(number: int) -> tuple[kit.Config, int]:
    """Of the number-th run, and its ranks: the methods in turn and one of them on two, each time with another seed."""
    turn, place = divmod(number, len(METHODS) + 1)
    ranks = 1 if place < len(METHODS) else 2
    method = METHODS[place if ranks == 1 else turn % len(METHODS)]
    blocks = {"channels": 4, "cells": 4, "search_cells": 4} if kit.Config(method=method).space != "cell" else {}
    return micro_config(method, epochs=EPOCHS, search_epochs=2, seed=turn + 1000 * (ranks - 1), **blocks), ranks


def attempt(values: dict, out: str, hang_at: int | None, place: dict[str, str], said: Connection) -> None:
    """In the process that is killed: go on with the run; say that it began, and where it hangs with half a file. place:
    the environment that torchrun gives a rank; empty where the search is one process.
    """
    torch.set_num_threads(1)
    os.environ.update(place)
    if place:  # a rank whose neighbour is killed tells it in a traceback
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    register_micro()
    real, writes = os.replace, itertools.count(1)

    def replace(source: str, target: str) -> None:
        if next(writes) == hang_at:
            os.truncate(source, os.path.getsize(source) // 2)
            said.send_bytes(b"half")
            time.sleep(600)
        real(source, target)

    os.replace = replace
    said.send_bytes(b"start")
    kit.search(kit.Config(**values), out=out, progress=Silent())


@dataclass
class Torture:
    """kills: made so far; torn: those that left half a file; epochs: completed before each kill."""

    out: Path
    seed: int = 0
    kills: int = 0
    torn: int = 0
    finished: int = 0
    epochs: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["kit.search.engine", "pyarrow.parquet", "torch._dynamo"])
        self.usual = 1.0  # seconds of an attempt; learned from those that go on to the end

    def run(self, kills: int, say: Callable[[str], None] = lambda text: None) -> None:
        """Kill until it is enough; every run, the last one too, then goes on to its end and is compared."""
        register_micro()
        while self.kills < kills:
            config, ranks = configuration(self.finished)
            what = f"{config.method} on {ranks} rank{'s' * (ranks > 1)}"
            while self.once(config, ranks, armed=self.kills < kills):
                say(f"kill {self.kills}/{kills}: {what} after {self.epochs[-1]} epochs; {self.torn} in a write")
            self.compare(config, ranks)
            self.finished += 1
            say(f"run {self.finished}, {what}: the same history, weights and predictions as undisturbed")

    def start(self, config: kit.Config, ranks: int, out: str, hang_at: int | None = None) -> tuple[list, Connection]:
        """The processes of one attempt, and what the first one says."""
        said, says = self.context.Pipe(duplex=False)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        several = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        several |= {"TORCHELASTIC_RUN_ID": "torture"}
        places = [several | {"RANK": str(i), "LOCAL_RANK": str(i)} for i in range(ranks)] if ranks > 1 else [{}]
        values, out, hangs = config.model_dump(), str(self.out / out), [hang_at, *[None] * (ranks - 1)]
        given = [(values, out, hang, place, says) for hang, place in zip(hangs, places)]
        processes = [self.context.Process(target=attempt, args=each, daemon=True) for each in given]
        for process in processes:
            process.start()
        says.close()
        return processes, said

    def once(self, config: kit.Config, ranks: int, armed: bool) -> bool:
        """One attempt; whether it was killed (else it finished)."""
        hang_at = self.chance.randint(1, WRITES) if armed and self.chance.random() < 0.6 else None
        processes, said = self.start(config, ranks, "killed", hang_at)
        victims = processes[:1] if hang_at else self.chance.sample(processes, self.chance.randint(1, ranks))
        began = time.monotonic()
        try:
            for _ in processes:
                said.recv_bytes()
            if hang_at:
                self.torn += said.recv_bytes() == b"half"
            elif armed:
                time.sleep(self.chance.uniform(0, self.usual))
            for process in victims if armed else ():
                process.kill()
        except EOFError:
            pass  # it finished before it came so far
        for process in processes:
            process.join(PATIENCE if ranks > 1 else None)
        said.close()
        codes = [process.exitcode for process in processes]
        if codes == [0] * ranks:
            self.usual = max(0.3, time.monotonic() - began)
            return False
        assert set(codes) <= ({-9, 1, 0} if ranks > 1 else {-9}), f"{config.name} ended by itself, exit codes {codes}"
        self.look(self.out / "killed" / config.name, ranks)
        return True

    def look(self, folder: Path, ranks: int) -> None:
        """After a kill everything that is in its place can be read, and nothing says that the run failed, unless a rank
        lost the other.
        """
        self.kills += 1
        self.epochs.append(0)
        if (folder / "config.json").is_file():
            run = Run.load(folder)
            lost = ranks > 1 and "another rank has ended" in run.failure.get("message", "")
            assert run.status in ("interrupted", "finished") or lost, (run.status, run.failure)
            assert len(run.alpha) >= 0 and len(run.tau) >= 0
            self.epochs[-1] = int(run.history["epoch"].max()) if len(run.history) else 0

    def compare(self, config: kit.Config, ranks: int) -> None:
        run = Run.load(self.out / "killed" / config.name)
        if ranks > 1:
            processes, said = self.start(config, ranks, "whole")
            for process in processes:
                process.join()
            said.close()
        whole = kit.search(config, out=self.out / "whole", progress=Silent())  # of several ranks it is only read
        assert run.provenance["ranks"] == whole.provenance["ranks"] == ranks
        assert_same_run(run, whole)
        weights = (r.path / "model" / "model.safetensors" for r in (run, whole))
        assert len({path.read_bytes() for path in weights}) == 1
        images = kit.load_dataset(config.dataset).test.images
        assert torch.equal(run.predict(images).probabilities, whole.predict(images).probabilities)
        assert len(list((run.path / "checkpoints").iterdir())) <= 2 and not list(run.path.rglob("*.tmp"))


def main() -> None:
    kills, seed = (int(sys.argv[i]) if len(sys.argv) > i else usual for i, usual in ((1, 100), (2, 0)))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as out:
        torture, began = Torture(Path(out), seed), time.monotonic()
        torture.run(kills, say=lambda text: print(text, flush=True))
        done = f"{torture.kills} kills (seed {seed}), {torture.torn} of them in a write, over {torture.finished} runs"
        print(f"{done} in {time.monotonic() - began:.0f} s: bit-identical")


if __name__ == "__main__":
    main()
