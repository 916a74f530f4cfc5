"""A run in a process of its own: started, paused, resumed, stopped or killed from here, and what became of it.

A fork server imports kit once; every run is forked from it in a fraction of a second, before any thread or GPU context
exists. One pipe joins the two: orders go down, the error comes up. When this process ends, however it ends, so does the
pipe, and the run kills its whole process group.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import types
import weakref
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from kit.config import Config
from kit.errors import KitError
from kit.run import store
from kit.search.engine import search
from kit.search.progress import Silent

PRELOADED = ["kit.lab.process", "pyarrow.parquet"]
LOCK_PATIENCE = 20.0  # seconds for a dying predecessor, on a lost node, say, to let go of the run directory
LONGEST = 4000  # characters of an error: more would fill the pipe before anybody reads it
ALIVE: weakref.WeakSet[ChildProcess] = weakref.WeakSet()


class ChildProcess:
    """A run under way; `sentinel` becomes ready when its process ends, and `end()` says how.

    values: the fields of `kit.Config` by name, from which the process builds the configuration. folder: its run
    directory. threads: of torch; None: torch's own choice. cards: its GPUs, as CUDA_VISIBLE_DEVICES names them; None:
    all. notebook: one that papermill executes with the values as parameters, in place of `kit.search`.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        folder: Path,
        *,
        threads: int | None = None,
        cards: str | None = None,
        notebook: str | None = None,
    ):
        self.folder, self.paused, self.stopping, self.cause = folder, False, False, None
        environment = {**os.environ, "KIT_PARAMETERS": "{}"}  # the configuration is complete
        environment |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
        environment |= {"CUDA_VISIBLE_DEVICES": cards} if cards is not None else {}
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.link, theirs = context.Pipe()
        task = (dict(values), folder.absolute(), notebook, threads, environment, os.getcwd(), theirs)
        self.process = context.Process(target=_execute, args=task)
        with _without_main():
            self.process.start()
        theirs.close()
        self.sentinel = self.process.sentinel
        ALIVE.add(self)

    @property
    def state(self) -> str:
        """running, paused, stopping or ended."""
        if wait([self.sentinel], timeout=0):
            return "ended"
        return "stopping" if self.stopping else "paused" if self.paused else "running"

    def pause(self) -> None:
        """Hold the search where it is; it keeps its memory, a GPU's included."""
        self.paused = True
        self._order("pause")

    def resume(self) -> None:
        self.paused = False
        self._order("resume")

    def stop(self) -> None:
        """Ask the search to end, also a paused one, once the epoch under way is saved."""
        self.paused, self.stopping = False, True
        self._order("stop")

    def kill(self) -> None:
        """End it now; what has been saved stays."""
        self.stopping = True
        self.process.kill()
        self.end()

    def end(self) -> str:
        """Wait for the end, leave no process behind, and say why there is no result: "" where the run has finished or
        was told to end. A run that was killed gets the failure.json that it could not write.
        """
        if self.cause is not None:
            return self.cause
        self.process.join()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)  # what the run has started itself
        ALIVE.discard(self)
        code, said = self.process.exitcode, ""
        with contextlib.suppress(EOFError, OSError):
            said = self.link.recv()
        self.link.close()
        if code == 0 or self.stopping:
            self.cause = ""
        elif code < 0 and not said:
            self.cause = f"killed by signal {-code} ({signal.Signals(-code).name})"
            self.cause += ": the system does that when memory runs out" if -code == signal.SIGKILL else ""
            if self.folder.is_dir() and not (self.folder / "failure.json").exists():
                store.write_json(self.folder / "failure.json", {"error": "Killed", "message": self.cause})
        else:
            self.cause = said or f"exit code {code}"
        return self.cause

    def _order(self, order: str) -> None:
        with contextlib.suppress(OSError):  # it has just ended
            self.link.send(order)


@atexit.register  # multiprocessing, imported above, waits at the exit for all children; what comes later runs earlier
def _kill_all() -> None:
    for child in list(ALIVE):
        child.kill()


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """multiprocessing imports the main program again in every new process. Runs need nothing of it: a script may call
    `sweep.run` unguarded, and Ray's main program takes seconds.
    """
    main, sys.modules["__main__"] = sys.modules["__main__"], types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


# ---- in the process ------------------------------------------------------------------------------


def _execute(
    values: dict[str, Any],
    folder: Path,
    notebook: str | None,
    threads: int | None,
    environment: dict[str, str],
    cwd: str,
    link: Connection,
) -> None:
    os.setsid()  # a process group of its own: no Ctrl-C of the terminal reaches it, and it can be killed as a whole
    orders = Orders(link)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    if threads:
        torch.set_num_threads(threads)
    end = time.monotonic() + LOCK_PATIENCE
    while store.in_use(folder) and time.monotonic() < end:
        time.sleep(0.2)
    try:
        if notebook is None:
            search(_config(values), out=folder.parent, progress=orders)
        else:
            _papermill(values, folder, notebook)
    except Exception as error:
        link.send(_said(error))
        sys.exit(1)


class Orders(Silent):
    """Obeys what comes down the pipe. It is the search's progress reporter, since a search may stop between epochs."""

    def __init__(self, link: Connection):
        self.link, self.ending, self.going = link, False, threading.Event()
        signal.signal(signal.SIGUSR1, lambda *_: self.going.wait())  # holds the main thread
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while order := self.link.recv():
                if order == "pause":
                    self.going.clear()
                    signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
                else:
                    self.ending |= order == "stop"
                    self.going.set()
        os.killpg(0, signal.SIGKILL)  # the process at the other end is no more

    def start(self, *_: object) -> None:
        if self.ending:
            sys.exit()

    epoch = start  # called when the epoch is saved


def _config(values: Mapping[str, Any]) -> Config:
    try:
        return Config(**values)
    except KitError as error:
        raise KitError(
            f"{error} (a run's process does not know what a session has registered by itself: put that into a file and "
            "name it, plugins='my_file.py')"
        ) from None


def _said(error: Exception) -> str:
    """In one line; of a notebook, the error in its cell."""
    name, value = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", str(error))
    memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in value
    hint = "; out of memory: a smaller batch_size, channels or cells needs less" if memory else ""
    return f"{name}: {' '.join(value.split())[:LONGEST]}{hint}"


def _papermill(values: dict[str, Any], folder: Path, notebook: str) -> None:
    import papermill

    # it warns of every field that the parameters cell does not declare
    logging.getLogger("papermill").setLevel(logging.ERROR)
    folder.parent.mkdir(parents=True, exist_ok=True)
    given = {name: value for name, value in values.items() if value is not None} | {"out": str(folder.parent)}
    kept = str(folder.with_name(f"{folder.name}.ipynb"))
    papermill.execute_notebook(notebook, kept, parameters=given, progress_bar=False, cwd=os.getcwd())
    if not (folder / "metrics.json").is_file():
        raise KitError(
            f"{notebook} ended without the run {folder.name}: it has to call kit.search(kit.Config(**values)) with its "
            "parameters"
        )
