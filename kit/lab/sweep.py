"""Many runs, each in a process of its own, on this machine or on a Ray cluster. Finished runs are read, interrupted
ones go on.

    result = sweep.run(sweep.grid(method=["dha", "ista"], dataset="digits", seed=range(5)), workers=2)
    sweep.summary(result.runs)
"""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from kit import errors
from kit.config import Config
from kit.errors import KitError
from kit.lab import cost
from kit.lab import notebook as parameters
from kit.lab.process import ChildProcess
from kit.lab.ray import OnRay
from kit.lab.table import Table, summary
from kit.run.run import Run

__all__ = ["Failure", "Result", "axes", "estimate", "grid", "require_all", "run", "summary"]

LOST = 3  # times that a run may lose its Ray worker or node, besides the retries of what fails by itself


@dataclass
class Job:
    """A configuration to be run in `folder`; attempts: how often it was started; failed,
    lost: how many of them failed by themselves, or with their machine.
    """

    config: Config
    folder: Path
    notebook: str | None = None
    attempts: int = 0
    failed: int = 0
    lost: int = 0

    @property
    def finished(self) -> bool:
        return (self.folder / "metrics.json").is_file()


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


# ---- which runs ----------------------------------------------------------------------------------


def grid(**axes: Any) -> list[Config]:
    """Configurations of every combination: a list, tuple or range is an axis, anything else is the same for all.

    Every combination is checked before any runs. Raises KitError for an unknown name and for an empty axis.
    """
    choices = {}
    for name, values in axes.items():
        if name not in Config.model_fields:
            raise errors.unknown("parameter", name, Config.model_fields)
        choices[name] = list(values) if isinstance(values, (list, tuple, range)) else [values]
        if not choices[name]:
            raise KitError(f"{name}: an empty axis makes no runs; give at least one value")
    return [Config(**dict(zip(choices, values))) for values in itertools.product(*choices.values())]


def axes(datasets: str, methods: str, seeds: int | str, overrides: str, values: dict[str, Any]) -> dict[str, Any]:
    """What `grid` takes, from the flat parameters of a notebook.

    datasets, methods: names with commas. seeds: a number of them, from 0, or a list with commas. overrides: further
    axes, "lr=0.01:0.1,channels=8:16". values: the same for all runs. Raises KitError for what cannot be read, and for a
    name given twice.
    """
    found: dict[str, Any] = {"dataset": _listed(datasets), "method": _listed(methods), "seed": _seeds(seeds)}
    for part in _listed(overrides):
        name, equals, given = (piece.strip() for piece in part.partition("="))
        if not equals or name in found:
            raise KitError(
                f"overrides={overrides!r}: {part!r} is {'an axis already' if equals else 'not name=value:value'}; give "
                "fields of kit.Config as in -p overrides lr=0.01:0.1,channels=8:16"
            )
        found[name] = [parameters.typed(name, value.strip()) for value in given.split(":") if value.strip()]
    return {name: value for name, value in values.items() if name not in found} | found


def estimate(configs: Sequence[Config], out: str | Path | None = None) -> pd.Series:
    """Seconds of every run that is not finished, by name; see `kit.lab.cost`."""
    return cost.estimate([config for config in configs if not Job(config, _folder(config, out)).finished])


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _seeds(seeds: int | str) -> list[int]:
    try:
        one = isinstance(seeds, int) or str(seeds).strip().isdecimal()
        return list(range(int(seeds))) if one else [int(seed) for seed in str(seeds).split(",")]
    except ValueError:
        raise KitError(
            f"seeds={seeds!r} is neither a number of seeds nor a list of them: -p seeds 5, or -p seeds 0,3,7"
        ) from None


# ---- running them --------------------------------------------------------------------------------


def run(
    configs: Sequence[Config],
    out: str | Path | None = None,
    workers: int | None = None,
    *,
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
    backend: "local" or "ray"; address: of the Ray cluster, host:port, "auto" or "local".
    gpus: of each run, a whole number or a fraction of one; None: one where this machine has any and the configurations
    use them.
    retries: how often a run that failed is started again; it goes on from its last checkpoint. A run that loses its Ray
    worker or node is started again without being asked.
    notebook: papermill executes it for each run, with the configuration as its parameters; <out>/<run>.ipynb is kept,
    also of a failure.

    A run that fails does not stop the others. Ctrl-C stops all of them; they go on next time. Raises KitError before
    anything starts for what cannot be.
    """
    _check(workers, threads, retries, gpus, notebook)
    if backend not in ("local", "ray"):
        raise errors.unknown("backend", backend, ("local", "ray"))
    if gpus is None:
        gpus = float(bool(available_cards()) and any(config.device != "cpu" for config in configs))
    folders = [_folder(config, out) for config in configs]
    for folder in {folder.parent for folder in folders}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise KitError(f"out={str(folder)!r} cannot be made ({error.strerror}): give another folder") from None
    jobs = {folder: Job(config, folder, notebook) for config, folder in zip(configs, folders)}
    todo = [job for job in jobs.values() if not job.finished]
    began, failures, table = time.monotonic(), [], Table(todo, len(configs), quiet)
    if todo:
        engine = OnRay(address, workers, threads, gpus) if backend == "ray" else Local(workers, threads, gpus)
        try:
            failures = _work_off(todo, engine, retries, table)
        finally:
            engine.stop()
            table.close()
    runs = [Run.load(folder) for folder in folders if jobs[folder].finished]
    return Result(runs, failures, time.monotonic() - began, {job.folder.name: job.attempts for job in jobs.values()})


def require_all(result: Result) -> None:
    """Raises KitError that lists the runs that failed, with their causes; what finished is kept."""
    if result.failures:
        listed = "; ".join(f"{failure.name}: {failure.cause}" for failure in result.failures)
        raise KitError(f"{len(result.failures)} of {len(result.failures) + len(result.runs)} runs failed: {listed}")


def _work_off(todo: list[Job], engine: Local | OnRay, retries: int, table: Table) -> list[Failure]:
    queue, busy, failures = deque(todo), 0, []
    while queue or busy:
        while queue and busy < engine.slots:
            job = queue.popleft()
            job.attempts, busy = job.attempts + 1, busy + 1
            engine.start(job)
            table.now(job, "running")
        for job, cause, machine in engine.wait(1.0):
            busy -= 1
            job.lost += machine
            job.failed += not machine
            if job.finished:  # whatever happened to its process after that
                accuracy = Run.load(job.folder).metrics["test_accuracy"]
                table.now(job, "done", f"test accuracy {accuracy:.4f}")
            elif job.lost <= LOST if machine else job.failed <= retries:
                queue.append(job)
                table.now(job, "queued", f"tried again after {cause}")
            else:
                failures.append(Failure(job.folder.name, cause))
                table.now(job, "failed", cause)
        table.tick()
    return failures


class Local:
    """Processes on this machine. workers: runs at a time, None: as many as the GPUs or, without, the cores allow; gpus:
    of each run; 0.5: two share one.
    """

    def __init__(self, workers: int | None, threads: int, gpus: float):
        cards = available_cards() if gpus else []
        size, sharing = max(1, int(gpus)), int(1 / gpus + 1e-9) if 0 < gpus < 1 else 1
        places = [",".join(cards[i : i + size]) for i in range(0, len(cards) - size + 1, size) for _ in range(sharing)]
        self.slots = workers or len(places) or max(1, available_cores() // threads)
        if gpus and self.slots > len(places):
            raise KitError(
                f"gpus={gpus:g} for each of {self.slots} runs at a time, and this machine has {len(cards)} with room "
                f"for {len(places)}: ask for fewer workers, a fraction, or gpus=0 for the CPU"
            )
        self.threads, self.free = threads, places if gpus else [""] * self.slots
        self.running: dict[int, tuple[Job, ChildProcess, str]] = {}

    def start(self, job: Job) -> None:
        cards = self.free.pop(0)
        chosen = job.config.device.startswith("cuda:")  # by the configuration itself, among all cards
        places = {"threads": self.threads, "cards": None if chosen else cards}
        child = ChildProcess(job.config.model_dump(), job.folder, notebook=job.notebook, **places)
        self.running[child.sentinel] = (job, child, cards)

    def wait(self, seconds: float) -> list[tuple[Job, str, bool]]:
        """The jobs that ended within so many seconds: (job, why it failed, whether its machine was lost)."""
        ended = []
        for sentinel in wait(list(self.running), timeout=seconds):
            job, child, cards = self.running.pop(sentinel)
            self.free.append(cards)
            ended.append((job, child.end(), False))
        return ended

    def stop(self) -> None:
        for _, child, _ in self.running.values():
            child.kill()
        self.running.clear()


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_cards() -> list[str]:
    """This machine's GPUs, as CUDA_VISIBLE_DEVICES names them."""
    named, count = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()  # makes no GPU context
    return named.split(",")[:count] if named else [str(i) for i in range(count)]


def _check(workers: int | None, threads: int, retries: int, gpus: float | None, notebook: str | None) -> None:
    numbers = {"workers": (1 if workers is None else workers, 1), "threads": (threads, 1), "retries": (retries, 0)}
    for name, (value, least) in numbers.items():
        if type(value) is not int or value < least:
            raise KitError(f"{name}={value!r} is not a whole number of {least} or more")
    if gpus is not None and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
        raise KitError(f"gpus={gpus:g} of each run is neither a fraction of one (0.5: two share it) nor a whole number")
    if notebook is not None and not Path(notebook).is_file():
        raise KitError(
            f"notebook={notebook!r} is no file: give the path of a notebook with a parameters cell, such as "
            "notebooks/search.ipynb"
        )


def _folder(config: Config, out: str | Path | None) -> Path:
    return Path(out if out is not None else config.out).expanduser() / config.name
