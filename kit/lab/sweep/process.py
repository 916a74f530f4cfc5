"""One run in a process, and a process group, of its own: as a search, or as a notebook that papermill executes.

A fork server imports kit once; every run is forked from it in milliseconds, before any thread or GPU context exists. A
run dies with the
fork server and with the process that started the sweep; what a run has started itself is killed with the run's group.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from kit.config import Config
from kit.errors import KitError
from kit.run import store

PRELOADED = ["kit.search.engine", "kit.lab.sweep.process", "pyarrow.parquet"]
LOCK_PATIENCE = 20.0  # seconds for a predecessor on a node that was lost to let go of the run directory


@dataclass(frozen=True)
class Place:
    """Where a run computes. cores: its CPU set (None: any); cards: its GPUs as CUDA_VISIBLE_DEVICES has them (None:
    left alone).
    """

    threads: int = 1
    cores: tuple[int, ...] | None = None
    cards: str | None = None


@dataclass
class Job:
    """A configuration to be run in `folder`; attempts so far; causes: of those that failed. notebook: that executes it,
    if any.
    """

    config: Config
    folder: Path
    notebook: str | None = None
    attempts: int = 0
    causes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def finished(self) -> bool:
        return (self.folder / "metrics.json").is_file()

    @property
    def epoch(self) -> int:
        """Epochs done, as far as the run directory knows: its newest checkpoint."""
        names = [path.stem for path in (self.folder / "checkpoints").glob("epoch-*.safetensors")]
        return max((int(name.removeprefix("epoch-")) for name in names), default=0)


class Running:
    """A run under way. `sentinel` becomes ready when its process ends."""

    def __init__(self, job: Job, place: Place):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.job = job
        self.said, says = context.Pipe(duplex=False)
        lifeline, self.lifeline = context.Pipe(duplex=False)  # its end tells the run that this process is no more
        values = {name: value for name, value in job.config.model_dump().items() if value is not None}
        self.process = context.Process(
            target=_execute, args=(values, str(job.folder.absolute()), job.notebook, place, os.getcwd(), says, lifeline)
        )
        self.process.start()
        says.close()
        lifeline.close()
        self.sentinel = self.process.sentinel

    def end(self) -> str | None:
        """Wait for the process; why it failed, None if it did not. Nothing of it is left behind."""
        self.process.join()
        _kill_group(self.process.pid)
        self.lifeline.close()
        if self.process.exitcode == 0:
            return None
        keep_notebook(self.job.folder)
        cause = _cause(self.said, self.process.exitcode)
        if self.process.exitcode < 0:
            _record_kill(self.job, cause)
        return cause

    def kill(self) -> None:
        """Because the sweep stops: no failure of the run."""
        _kill_group(self.process.pid)
        self.process.kill()
        self.process.join()
        self.lifeline.close()
        keep_notebook(self.job.folder)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _cause(said: Connection, exitcode: int) -> str:
    try:
        return said.recv()
    except (EOFError, OSError):
        return f"killed by signal {-exitcode}" if exitcode < 0 else f"exit code {exitcode}"


def _record_kill(job: Job, cause: str) -> None:
    """A process that is killed, by the kernel for its memory, say, cannot leave a failure.json itself."""
    with contextlib.suppress(OSError):
        if job.folder.is_dir() and not job.finished and not (job.folder / "failure.json").exists():
            store.write_json(job.folder / "failure.json", {"error": "Killed", "message": cause, "epoch": job.epoch})


# ---- in the process ------------------------------------------------------------------------------


def _execute(
    values: dict[str, Any],
    folder: str,
    notebook: str | None,
    place: Place,
    cwd: str,
    says: Connection,
    lifeline: Connection,
) -> None:
    os.setsid()  # a group of its own: it gets no Ctrl-C of the terminal, and can be killed as a whole
    threading.Thread(target=_die_with, args=(lifeline,), daemon=True).start()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: dies with the fork server
    os.chdir(cwd)
    _settle(place)
    try:
        with _free(Path(folder)):
            pass
        if notebook is None:
            _search(values, folder)
        else:
            _papermill(values, Path(folder), notebook)
    except Exception as error:
        says.send(_said(error))
        sys.exit(1)


def _die_with(lifeline: Connection) -> None:
    """When the sweep (or the Ray worker) ends, however it ends, so does this group. The fork server would live as long
    as one run does.
    """
    with contextlib.suppress(EOFError, OSError):
        lifeline.recv_bytes()
    os.killpg(0, signal.SIGKILL)


def _settle(place: Place) -> None:
    os.environ.pop("KIT_PARAMETERS", None)  # has been applied; the configuration is complete
    os.environ["OMP_NUM_THREADS"] = str(place.threads)
    if place.cards is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = place.cards
    if place.cores is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, place.cores)
    import torch

    torch.set_num_threads(place.threads)


@contextlib.contextmanager
def _free(folder: Path):
    """Wait for the run directory's lock: the process that worked in it may be dying yet, on a node that was lost."""
    began = time.monotonic()
    while folder.exists():
        try:
            with store.exclusive(folder):
                break
        except KitError:
            if time.monotonic() - began > LOCK_PATIENCE:
                raise
            time.sleep(0.2)
    yield


def _search(values: dict[str, Any], folder: str) -> None:
    from kit.search.engine import search
    from kit.search.progress import Silent

    search(Config(**values), out=os.path.dirname(folder), progress=Silent())


def _said(error: Exception) -> str:
    """In one line; of a notebook, the error in its cell."""
    name, value = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", str(error))
    return f"{name}: {' '.join(str(value).split())}"


# ---- a notebook per run --------------------------------------------------------------------------


def notebook_of(folder: Path) -> Path:
    """out/<run>.ipynb beside the run directory out/<run>."""
    return folder.with_name(f"{folder.name}.ipynb")


def _unfinished(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.part.ipynb")


def keep_notebook(folder: Path) -> None:
    """Make what papermill has saved so far the run's notebook, if it is whole: a kill in the middle of a save leaves
    half a file.
    """
    part = _unfinished(folder)
    with contextlib.suppress(OSError, ValueError):
        json.loads(part.read_text())
        os.replace(part, notebook_of(folder))
    part.unlink(missing_ok=True)


def _papermill(values: dict[str, Any], folder: Path, notebook: str) -> None:
    import papermill

    logging.getLogger("papermill").setLevel(
        logging.ERROR
    )  # it warns of every field of Config that the parameters cell leaves out
    folder.parent.mkdir(parents=True, exist_ok=True)
    values = {**values, "out": str(folder.parent)}
    try:
        papermill.execute_notebook(
            notebook, str(_unfinished(folder)), parameters=values, progress_bar=False, cwd=os.getcwd()
        )
    finally:
        keep_notebook(folder)
    if not (folder / "metrics.json").is_file():
        raise KitError(
            f"{notebook} ended without the run {folder.name}: it has to call kit.search(kit.Config(**values)) with its parameters"
        )
