"""Runs side by side on this machine: each a process group of its own, of which nothing lives on when its worker dies."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from kit.config import Config
from kit.sweep.board import EVERY, Board, Failure


@dataclass
class _Worker:
    process: Any
    said: Connection
    task: tuple[Config, Path]
    device: int | None

    def end(self) -> None:
        """Wait for the worker, and end what it may have started."""
        self.process.join()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def stop(self) -> None:
        self.process.kill()
        self.end()


def work_off(todo: list[tuple[Config, Path]], workers: int, threads: int, devices: list[int], retries: int, board: Board,
             notebook: str | Path | None = None) -> list[Failure]:  # fmt: skip
    """The runs, `workers` at a time, on `devices` (CUDA indices) in turn; each that fails again up to `retries` times."""
    # a server process imports kit once; every run is forked from it in milliseconds, before any thread or GPU context exists
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kit.search", "pyarrow.parquet"])
    running: dict[int, _Worker] = {}
    failures, queue, tries = [], list(todo), dict.fromkeys((folder for _, folder in todo), 0)
    try:
        while queue or running:
            while queue and len(running) < workers:
                worker = _started(context, queue.pop(0), threads, _least_used(devices, running), notebook)
                running[worker.process.sentinel] = worker
                board.start(worker.task[1])
            for sentinel in wait(list(running), timeout=EVERY):
                worker = running.pop(sentinel)
                worker.end()
                folder = worker.task[1]
                cause = _cause(worker) if worker.process.exitcode != 0 else None
                if cause and tries[folder] < retries:
                    tries[folder] += 1
                    board.again(folder, cause)
                    queue.append(worker.task)
                    continue
                if cause:
                    failures.append(Failure(folder.name, cause))
                board.finish(folder, cause)
            board.look()
    finally:
        for worker in running.values():
            worker.stop()
    return failures


def _started(context: Any, task: tuple[Config, Path], threads: int, device: int | None, notebook: str | Path | None) -> _Worker:
    config, folder = task
    said, says = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(config.model_dump(), str(folder), threads, device, notebook and str(notebook), says))
    process.start()
    says.close()
    return _Worker(process, said, task, device)


def _least_used(devices: list[int], running: dict[int, _Worker]) -> int | None:
    used = [worker.device for worker in running.values()]
    return min(devices, key=used.count) if devices else None


def _cause(worker: _Worker) -> str:
    exitcode = worker.process.exitcode
    try:
        return worker.said.recv()
    except EOFError:
        return f"killed by signal {-exitcode}" if exitcode < 0 else f"exit code {exitcode}"


def _work(values: dict[str, Any], folder: str, threads: int, device: int | None, notebook: str | None, says: Connection) -> None:
    """In the worker. Dies with the fork server, which dies with the process that started the sweep."""
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = _visible(device)
    try:
        execute(values, folder, threads, notebook)
    except Exception as error:
        says.send(f"{type(error).__name__}: {error}")
        sys.exit(1)


def _visible(device: int) -> str:
    """The index-th of the GPUs that this process was given."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",")[device] if given else str(device)


def execute(values: dict[str, Any], folder: str, threads: int, notebook: str | None = None) -> None:
    """One run, quietly, in this process; or a notebook that does it, by papermill, kept beside the run directory also when it fails."""
    import torch

    from kit.progress import Silent
    from kit.search import search

    torch.set_num_threads(threads)
    out = Path(folder).parent
    if notebook is None:
        search(Config(**values), out=out, progress=Silent())
        return
    import papermill

    given = {name: value for name, value in values.items() if value is not None} | {"out": str(out.resolve())}
    unfinished, kept = out / f".{Path(folder).name}.ipynb", out / f"{Path(folder).name}.ipynb"
    os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        papermill.execute_notebook(notebook, str(unfinished), parameters=given, progress_bar=False, log_output=False)
    finally:
        # papermill saves after every cell, and a kill in the middle cuts the file short: what bears the run's name is whole
        if unfinished.is_file():
            os.replace(unfinished, kept)
    if not (Path(folder) / "metrics.json").is_file():
        raise RuntimeError(f"{notebook} ended without a finished run in {folder}: it must pass its parameters on to kit.search")
