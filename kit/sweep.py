"""Many runs side by side on this machine: each in a process of its own, finished ones read, interrupted ones resumed."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from kit.config import Config
from kit.errors import KitError
from kit.run import Run


@dataclass(frozen=True)
class Failure:
    """A run that did not finish, and why."""

    name: str
    cause: str


@dataclass(frozen=True)
class Result:
    """runs: the finished ones, in the order of the configurations; failures: the others."""

    runs: list[Run]
    failures: list[Failure]
    seconds: float


def grid(**axes: Any) -> list[Config]:
    """Configurations of every combination: a list, tuple or range is an axis, anything else is the same for all.

    Every combination is checked before any runs. Raises KitError for an empty axis.
    """
    combinations: list[dict[str, Any]] = [{}]
    for name, values in axes.items():
        values = list(values) if isinstance(values, (list, tuple, range)) else [values]
        if not values:
            raise KitError(f"{name}: an empty axis makes no runs; give at least one value")
        combinations = [{**c, name: value} for c in combinations for value in values]
    return [Config(**c) for c in combinations]


def run(configs: list[Config], out: str | Path | None = None, workers: int | None = None, threads: int = 1, quiet: bool = False) -> Result:
    """Run all configurations, `workers` at a time (None: as many as there are cores per `threads`), and return what finished.

    threads: of each process; one is as fast as two on small images. Prints a line when a run starts, and when it ends with how many
    are done and the time left. A run that fails does not stop the others. Ctrl-C stops all of them; they go on next time.
    """
    workers = workers or max(1, (os.cpu_count() or 1) // threads)
    began = time.monotonic()
    waiting = [(config, _folder(config, out)) for config in configs]
    known = len(waiting)
    todo = [(config, folder) for config, folder in waiting if not (folder / "metrics.json").is_file()]
    if not quiet:
        print(f"{known} runs, {known - len(todo)} of them finished before; {min(workers, len(todo))} at a time, {threads} thread(s) each", flush=True)
    failures = _work_off(todo, workers, threads, quiet)
    runs = [Run.load(folder) for _, folder in waiting if (folder / "metrics.json").is_file()]
    seconds = time.monotonic() - began
    if not quiet:
        print(f"{len(runs)} runs finished, {len(failures)} failed, in {seconds / 60:.1f} min", flush=True)
    return Result(runs, failures, seconds)


def require_all(result: Result) -> None:
    """Raises KitError that lists the runs that failed, with their causes; what finished is kept."""
    if result.failures:
        listed = "; ".join(f"{failure.name}: {failure.cause}" for failure in result.failures)
        raise KitError(f"{len(result.failures)} of {len(result.failures) + len(result.runs)} runs failed: {listed}")


def _folder(config: Config, out: str | Path | None) -> Path:
    return Path(out if out is not None else config.out).expanduser() / config.name


def _work_off(todo: list[tuple[Config, Path]], workers: int, threads: int, quiet: bool) -> list[Failure]:
    # a server process imports kit once; every run is forked from it in milliseconds, before any thread or GPU context exists
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kit.search", "pyarrow.parquet"])
    running: dict[int, tuple[Any, Connection, Path, float]] = {}
    failures, queue, began, total = [], list(todo), time.monotonic(), len(todo)
    try:
        while queue or running:
            while queue and len(running) < workers:
                config, folder = queue.pop(0)
                said, says = context.Pipe(duplex=False)
                process = context.Process(target=_execute, args=(config.model_dump(), str(folder.parent), threads, says))
                process.start()
                says.close()
                running[process.sentinel] = (process, said, folder, time.monotonic())
            for sentinel in wait(list(running)):
                process, said, folder, start = running.pop(sentinel)
                process.join()
                if process.exitcode != 0:
                    failures.append(Failure(folder.name, _cause(said, process.exitcode)))
                if not quiet:
                    _line(folder, failures, total, total - len(queue) - len(running), began, time.monotonic() - start)
    finally:
        for process, *_ in running.values():
            process.kill()
            process.join()
    return failures


def _line(folder: Path, failures: list[Failure], total: int, done: int, began: float, took: float) -> None:
    failed = next((f for f in failures if f.name == folder.name), None)
    what = f"failed: {failed.cause}" if failed else f"test accuracy {Run.load(folder).metrics['test_accuracy']:.4f}"
    left = (time.monotonic() - began) / done * (total - done)
    print(f"[{done}/{total}, about {left / 60:.1f} min left] {folder.name}: {what} ({took:.0f} s)", flush=True)


def _cause(said: Connection, exitcode: int) -> str:
    try:
        return said.recv()
    except EOFError:
        return f"killed by signal {-exitcode}" if exitcode < 0 else f"exit code {exitcode}"


def _execute(values: dict[str, Any], out: str, threads: int, says: Connection) -> None:
    """In the worker: one run, quietly. Dies with the fork server, which dies with the process that started the sweep."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    import torch

    from kit.progress import Silent
    from kit.search import search

    torch.set_num_threads(threads)
    try:
        search(Config(**values), out=out, progress=Silent())
    except Exception as error:
        says.send(f"{type(error).__name__}: {error}")
        sys.exit(1)
