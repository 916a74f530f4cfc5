"""Many runs: each in a process of its own, on this machine or on a Ray cluster; finished ones are read, interrupted
ones go on.

result = sweep.run(sweep.grid(method=["dha", "ista"], dataset="digits", seed=range(5)), backend="local")
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kit import errors
from kit.config import Config
from kit.errors import KitError
from kit.lab.sweep import axes, table
from kit.lab.sweep.cost import Estimate, estimate
from kit.lab.sweep.local import Local, visible_gpus
from kit.lab.sweep.on_ray import OnRay
from kit.lab.sweep.process import Job
from kit.lab.sweep.summary import summary
from kit.run.run import Run

__all__ = ["BACKENDS", "Estimate", "Failure", "Result", "axes", "estimate", "grid", "require_all", "run", "summary"]

LOST = 3  # times that a run may lose its Ray worker or node, besides the retries of what fails by itself


@dataclass(frozen=True)
class Failure:
    """A run that did not finish, and why."""

    name: str
    cause: str


@dataclass(frozen=True)
class Result:
    """runs: the finished ones, in the order of the configurations; failures: the others; attempts: how often each was
    started, by name.
    """

    runs: list[Run]
    failures: list[Failure]
    seconds: float
    attempts: dict[str, int]


class Backend(Protocol):
    """slots: runs at a time. wait: the jobs that ended within so many seconds, each with the cause of its failure and
    whether that was
    the loss of its machine."""

    slots: int

    def start(self, job: Job) -> None: ...
    def wait(self, seconds: float) -> list[tuple[Job, str | None, bool]]: ...
    def stop(self) -> None: ...


BACKENDS: dict[str, Callable[[str, int | None, int, float], Backend]] = {
    "local": lambda address, workers, threads, gpus: Local(workers, threads, gpus),
    "ray": OnRay,
}


def grid(**axes: Any) -> list[Config]:
    """Configurations of every combination: a list, tuple or range is an axis, anything else is the same for all.

    Every combination is checked before any runs. Raises KitError for an unknown name and for an empty axis.
    """
    combinations: list[dict[str, Any]] = [{}]
    for name, values in axes.items():
        if name not in Config.model_fields:
            raise errors.unknown("parameter", name, Config.model_fields)
        values = list(values) if isinstance(values, (list, tuple, range)) else [values]
        if not values:
            raise KitError(f"{name}: an empty axis makes no runs; give at least one value")
        combinations = [{**c, name: value} for c in combinations for value in values]
    return [Config(**c) for c in combinations]


def run(
    configs: list[Config],
    out: str | Path | None = None,
    workers: int | None = None,
    threads: int = 1,
    quiet: bool = False,
    backend: str = "local",
    address: str = "auto",
    gpus: float | None = None,
    retries: int = 0,
    notebook: str | None = None,
) -> Result:
    """Run all configurations, `workers` at a time, and return what finished.

    out: folder of run directories, in place of the configurations' own; with Ray, one that all machines share.
    workers: None takes as many as the GPUs have room for or, without GPUs, the cores per `threads`.
    threads: of each process; one is as fast as two on small images.
    backend: "local" or "ray"; address: of the Ray cluster, see `OnRay`.
    gpus: of each run, a whole number or a fraction of one; None: one where there are any on this machine, and the
    configurations use them.
    retries: how often a run that failed is started again (it goes on from its last checkpoint). A run that loses its
    Ray worker or node
    is started again without being asked.
    notebook: papermill executes it for each run, with the configuration as its parameters; <out>/<run>.ipynb is kept,
    also of a failure.

    A run that fails does not stop the others. Ctrl-C stops all of them; they go on next time. Raises KitError before
    anything starts
    for what cannot be.
    """
    gpus = _check(workers, threads, gpus, retries, notebook, backend, configs)
    jobs = list(
        {job.folder: job for job in (Job(config, _folder(config, out), notebook) for config in configs)}.values()
    )
    for folder in {job.folder.parent for job in jobs}:
        _check_writable(folder)
    began = time.monotonic()
    todo = [job for job in jobs if not job.finished]
    shown, failures = table.default(quiet), []
    if todo:
        engine = BACKENDS[backend](address, workers, threads, gpus)
        shown.open(len(configs), todo, engine.slots, threads)
        try:
            _work_off(todo, engine, retries, shown, failures)
        finally:
            engine.stop()
            shown.close(sum(job.finished for job in jobs), len(failures), time.monotonic() - began)
    elif not quiet:
        print(f"{len(configs)} runs, {len(configs)} of them finished before", flush=True)
    runs = [
        Run.load(folder)
        for folder in (_folder(config, out) for config in configs)
        if (folder / "metrics.json").is_file()
    ]
    return Result(runs, failures, time.monotonic() - began, {job.name: job.attempts for job in jobs})


def require_all(result: Result) -> None:
    """Raises KitError that lists the runs that failed, with their causes; what finished is kept."""
    if result.failures:
        listed = "; ".join(f"{failure.name}: {failure.cause}" for failure in result.failures)
        raise KitError(f"{len(result.failures)} of {len(result.failures) + len(result.runs)} runs failed: {listed}")


def _work_off(todo: list[Job], engine: Backend, retries: int, shown: table.Shown, failures: list[Failure]) -> None:
    queue, busy, lost = deque(todo), 0, dict.fromkeys((job.name for job in todo), 0)
    while queue or busy:
        while queue and busy < engine.slots:
            job = queue.popleft()
            job.attempts, busy = job.attempts + 1, busy + 1
            engine.start(job)
            shown.running(job)
        for job, cause, machine in engine.wait(1.0):
            busy -= 1
            lost[job.name] += machine
            if cause is not None and job.finished:  # its worker was lost after the last thing that it had to do
                cause = None
            if cause is not None and not machine:
                job.causes.append(cause)
            again = cause is not None and (lost[job.name] <= LOST if machine else len(job.causes) <= retries)
            if again:
                queue.append(job)
            elif cause is not None:
                failures.append(Failure(job.name, cause))
            shown.ended(job, cause, again)
        shown.tick()


def _check(
    workers: int | None,
    threads: int,
    gpus: float | None,
    retries: int,
    notebook: str | None,
    backend: str,
    configs: list[Config],
) -> float:
    """The GPUs of each run. Raises KitError for numbers that make no sense, an unknown backend or a notebook that is
    not there.
    """
    if backend not in BACKENDS:
        raise errors.unknown("backend", backend, BACKENDS)
    for name, value, least in (
        ("workers", 1 if workers is None else workers, 1),
        ("threads", threads, 1),
        ("retries", retries, 0),
    ):
        if type(value) is not int or value < least:
            raise KitError(f"{name}={value!r} is not a whole number of {least} or more")
    if notebook is not None and not Path(notebook).is_file():
        raise KitError(
            f"notebook={notebook!r} is no file: give the path of a notebook with a parameters cell, such as notebooks/search.ipynb"
        )
    if gpus is None:
        return float(bool(visible_gpus()) and any(config.device != "cpu" for config in configs))
    if gpus < 0 or (gpus > 1 and gpus != int(gpus)):
        raise KitError(
            f"gpus={gpus:g} of each run is neither a fraction of one (0.5: two runs share it) nor a whole number"
        )
    return gpus


def _folder(config: Config, out: str | Path | None) -> Path:
    return Path(out if out is not None else config.out).expanduser() / config.name


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise KitError(
            f"out={str(folder)!r} cannot be written ({error.strerror}): give a folder that can, out='runs'"
        ) from None
