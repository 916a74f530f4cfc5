"""Kill runs again and again, at random moments and in the middle of writes; what they end with must be what they end
with undisturbed.

    python tests/torture.py [kills [seed]]        # 100 kills; make torture

`tests/test_kill.py` does the same with 25. Every attempt is a process of its own, forked from a server that has
imported kit once, and killed
by SIGKILL with its process group. Of several methods in turn: what resumes differs between one level, two levels,
rewards and choice blocks.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
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
from kit.run import store  # noqa: E402
from kit.search.progress import Silent  # noqa: E402

METHODS = ("dha", "daas", "autohas", "diffautoml")
EPOCHS = 6
START, WRITE = b"s", b"w"
WRITES = 14  # the kill may wait for so many writes: those of about three epochs
AFTER = 0.003  # seconds that a write has gone on, at most


def configuration(number: int) -> kit.Config:
    """Of the number-th run: the methods in turn, each time with another seed."""
    method = METHODS[number % len(METHODS)]
    blocks = {"channels": 4, "cells": 4, "search_cells": 4} if kit.Config(method=method).space != "cell" else {}
    return micro_config(method, epochs=EPOCHS, search_epochs=3, seed=number // len(METHODS), **blocks)


def attempt(values: dict, out: str, said: Connection) -> None:
    """In the process that is killed: start the run or go on with it, and tell when a file is begun."""
    os.setpgid(0, 0)
    torch.set_num_threads(1)
    register_micro()
    real = store.atomically

    def telling(path: Path, write: Callable[[Path], None]) -> None:
        def told(temporary: Path) -> None:
            said.send_bytes(WRITE)
            write(temporary)

        real(path, told)

    store.atomically = telling
    said.send_bytes(START)
    kit.search(kit.Config(**values), out=out, progress=Silent())


@dataclass
class Torture:
    """kills: made so far; torn: those that left a file half-written; epochs: completed before each kill."""

    out: Path
    seed: int = 0
    kills: int = 0
    torn: int = 0
    finished: int = 0
    epochs: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["kit.search.engine", "pyarrow.parquet"])
        self.usual = 1.0  # seconds of an attempt; learned from those that go on to the end

    def run(self, kills: int, say: Callable[[str], None] = lambda text: None) -> None:
        """Kill until it is enough; every run, the last one too, then goes on to its end and is compared."""
        register_micro()
        while self.kills < kills:
            config = configuration(self.finished)
            while self._once(config, armed=self.kills < kills):
                say(
                    f"kill {self.kills}/{kills}: {config.method} after {self.epochs[-1]} epochs; {self.torn} files were being written so far"
                )
            self._compare(config)
            self.finished += 1
            say(f"run {self.finished}, {config.method}: the same history, weights and predictions as undisturbed")

    def _once(self, config: kit.Config, armed: bool) -> bool:
        """One attempt; whether it was killed (else it finished)."""
        said, says = self.context.Pipe(duplex=False)
        process = self.context.Process(
            target=attempt, args=(config.model_dump(), str(self.out / "killed"), says), daemon=True
        )
        process.start()
        says.close()
        began, at_write = time.monotonic(), armed and self.chance.random() < 0.6
        if self._wait(said, 1) and armed:  # from here on it has a process group of its own
            wait = self.chance.randint(1, WRITES) if at_write else 0
            if self._wait(said, wait):
                time.sleep(self.chance.uniform(0, AFTER if at_write else self.usual))
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass  # it finished first
        process.join()
        said.close()
        if process.exitcode == 0:
            self.usual = max(0.3, time.monotonic() - began)
            return False
        if process.exitcode != -signal.SIGKILL:
            raise AssertionError(
                f"{config.name} ended by itself with exit code {process.exitcode} after {self.kills} kills"
            )
        self._look(config, process.pid)
        return True

    def _wait(self, said: Connection, messages: int) -> bool:
        """Whether so many came before the process ended."""
        try:
            for _ in range(messages):
                said.recv_bytes()
        except EOFError:
            return False
        return True

    def _look(self, config: kit.Config, pid: int) -> None:
        """After a kill everything that is in its place can be read, and nothing says that the run failed."""
        self.kills += 1
        folder = self.out / "killed" / config.name
        self.torn += any(path.name.endswith(f".{pid}.tmp") for path in folder.rglob("*"))
        self.epochs.append(0)
        if (folder / "config.json").is_file():
            run = Run.load(folder)
            assert run.status in ("interrupted", "finished") and not (folder / "failure.json").exists(), run.status
            assert len(run.history) >= 0 and len(run.alpha) >= 0 and len(run.tau) >= 0
            checkpoints = sorted((folder / "checkpoints").glob("epoch-*.safetensors"))
            for path in checkpoints:
                self.epochs[-1] = store.read_state(path)["epoch"]

    def _compare(self, config: kit.Config) -> None:
        run = Run.load(self.out / "killed" / config.name)
        whole = kit.search(config, out=self.out / "whole", progress=Silent())
        assert_same_run(run, whole)
        weights = (r.path / "model" / "model.safetensors" for r in (run, whole))
        assert len({path.read_bytes() for path in weights}) == 1
        images = kit.load_dataset(config.dataset).test.images
        assert torch.equal(run.predict(images).probabilities, whole.predict(images).probabilities)
        assert len(list((run.path / "checkpoints").glob("epoch-*.safetensors"))) <= 2


def main() -> None:
    kills, seed = (int(sys.argv[i]) if len(sys.argv) > i else usual for i, usual in ((1, 100), (2, 0)))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as out:
        torture, began = Torture(Path(out), seed), time.monotonic()
        torture.run(kills, say=lambda text: print(text, flush=True))
        print(
            f"{torture.kills} kills (seed {seed}), {torture.torn} of them while a file was being written, over {torture.finished} runs in "
            f"{time.monotonic() - began:.0f} s: bit-identical"
        )


if __name__ == "__main__":
    main()
