"""Many runs: a grid of configurations, each run in a process of its own, on this machine or on a Ray cluster.

Finished runs are read, interrupted ones go on, failed ones are listed with their cause and tried again as often as asked.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import torch

from kit.config import Config
from kit.errors import KitError
from kit.run import Run
from kit.sweep.board import Board, Failure
from kit.sweep.estimate import estimate as estimate
from kit.sweep.local import work_off

BACKENDS = ("local", "ray")


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


def run(configs: list[Config], out: str | Path | None = None, workers: int | None = None, threads: int = 1, quiet: bool = False, retries: int = 0,
        gpus: float | None = None, backend: str = "local", address: str | None = None, notebook: str | Path | None = None) -> Result:  # fmt: skip
    """Run all configurations and return what finished.

    workers: runs at a time; None: one per GPU where there are any, else as many as there are cores per `threads` (ray: as many as its nodes
    have room for). threads: of each run; one is as fast as two on small images. retries: how often a run that failed starts again, from its
    last checkpoint. gpus: of each run; local: 1 or None gives the runs turns on the GPUs, 0 none; ray: any fraction, so that runs share one.
    backend: "local" or "ray" (`pip install 'kit[ray]'`; address: of a running cluster, None starts one on this machine). notebook: one that
    papermill runs for each configuration, kept as <out>/<run>.ipynb, also when it fails.

    Prints a line when a run ends, with the time left, or keeps a table up to date in JupyterLab. A run that fails does not stop the others.
    Ctrl-C stops all of them; they go on next time. Raises KitError before anything starts for what cannot work.
    """
    if backend not in BACKENDS:
        raise KitError(f"backend={backend!r} is not one of {', '.join(BACKENDS)}")
    began = time.monotonic()
    waiting = [(config, _folder(config, out)) for config in configs]
    todo = [(config, folder) for config, folder in dict((folder, (config, folder)) for config, folder in waiting).values() if not _finished(folder)]
    for parent in {folder.parent for _, folder in todo}:
        _check_writable(parent)
    if notebook is not None and not Path(notebook).is_file():
        raise KitError(f"notebook={str(notebook)!r} is not a file: give a notebook that takes kit.Config's fields, as notebooks/search.ipynb does")
    board = Board(len(waiting), [folder for _, folder in todo], {folder: config.epochs for config, folder in todo}, quiet)
    executor = _executor(backend, len(todo), workers, threads, gpus, address)
    failures = executor(todo, retries, board, notebook) if todo else []
    runs = [Run.load(folder) for _, folder in waiting if _finished(folder)]
    board.end(len(runs), failures)
    return Result(runs, failures, time.monotonic() - began)


def require_all(result: Result) -> None:
    """Raises KitError that lists the runs that failed, with their causes; what finished is kept."""
    if result.failures:
        listed = "; ".join(f"{failure.name}: {failure.cause}" for failure in result.failures)
        raise KitError(f"{len(result.failures)} of {len(result.failures) + len(result.runs)} runs failed: {listed}")


def _executor(backend: str, todo: int, workers: int | None, threads: int, gpus: float | None, address: str | None) -> Callable[..., list[Failure]]:
    """The backend with its resources checked."""
    if backend == "ray":
        from kit.sweep import cluster

        return cluster.executor(address, workers, threads, gpus or 0)
    there = torch.cuda.device_count()
    if gpus not in (None, 0, 1):
        raise KitError(f"gpus={gpus}: the local backend gives a run one GPU or none (1 or 0); for shares and several use backend='ray'")
    if gpus == 1 and not there:
        raise KitError("gpus=1, but this machine has no CUDA device: leave gpus out, or set it to 0")
    devices = list(range(there)) if gpus != 0 else []
    workers = workers or len(devices) or max(1, (_cores()) // threads)

    def execute(tasks: list, retries: int, board: Board, notebook: str | Path | None) -> list[Failure]:
        return work_off(tasks, workers, threads, devices, retries, board, notebook)

    return execute


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _folder(config: Config, out: str | Path | None) -> Path:
    return Path(out if out is not None else config.out).expanduser() / config.name


def _finished(folder: Path) -> bool:
    return (folder / "metrics.json").is_file()


def _check_writable(parent: Path) -> None:
    probe = parent / f".kit-{time.time_ns()}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise KitError(f"out={str(parent)!r} cannot be written to ({error.strerror}): give a folder that can, with out=…") from None
