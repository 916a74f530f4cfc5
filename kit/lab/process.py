"""A run in a process of its own: a tree of processes that ends with the one that started it, and what goes wrong there.

A fork server imports once what runs need; every run is forked from it in a fraction of a second, before any thread or
GPU context exists. A pipe brings errors up; when this process ends, so does the pipe, and the run kills its group."""

import atexit
import contextlib
import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import types
import weakref
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from kit import files
from kit.config import Config
from kit.errors import KitError
from kit.search.engine import search
from kit.search.progress import Silent

PROGRESS = ".progress"  # a file of the run directory
LONGEST = 4000  # characters of an error: more would fill the pipe before anybody reads it
STARTING = threading.Lock()
ALIVE = weakref.WeakSet()  # the runs of this process


class Noted(Silent):
    """Into a file, for whoever watches the run: the epochs so far, and how fast it goes."""

    def __init__(self, path: Path):
        self.path = path

    def within(self, done: float, text: str) -> None:
        with contextlib.suppress(OSError):
            self.path.write_text(f"{done} {text}")


class ChildProcess:
    """A run under way; it waits while another process works in its directory. values: the fields of `kit.Config` by
    name. folder: its run directory. threads: of torch; 0: torch's own choice. cards: its GPUs, as CUDA_VISIBLE_DEVICES
    names them; None: all. notebook: one that papermill executes with the values as parameters, in place of
    `kit.search`. hung: seconds without an epoch after which it is killed; 0: never."""

    def __init__(self, values: Mapping[str, Any], folder: Path, *, threads=0, cards=None, notebook="", hung=0.0):
        self.killed, self.paused, self.folder, self.hung = False, False, folder.absolute(), hung
        environment = {**os.environ, "KIT_PARAMETERS": "{}"}  # the configuration is complete
        environment |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
        environment |= {"CUDA_VISIBLE_DEVICES": cards} if cards is not None else {}
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["kit.lab.process", "pyarrow.parquet"])
        self.link, theirs = context.Pipe()
        task = (theirs, dict(values), self.folder, notebook, (environment, os.getcwd(), threads))
        self.process = context.Process(target=_execute, args=task)
        with STARTING:  # multiprocessing would import the main program again in the child: a script may be unguarded
            main, sys.modules["__main__"] = sys.modules["__main__"], types.ModuleType("__main__")
            try:
                self.process.start()
            finally:
                sys.modules["__main__"] = main
        theirs.close()
        ALIVE.add(self)

    @property
    def ended(self) -> bool:
        return not self.process.is_alive()

    def pause(self, paused: bool = True) -> None:
        """Hold the run where it is, with its memory, a GPU's included, or let it go on."""
        self.paused = paused
        for send in (os.kill, os.killpg):  # one that has just begun has no group yet
            with contextlib.suppress(ProcessLookupError, PermissionError):
                send(self.process.pid, signal.SIGSTOP if paused else signal.SIGCONT)

    def kill(self) -> None:
        """End it now; what has been saved stays, and started again it goes on from its last complete epoch."""
        self.killed = True
        self.process.kill()
        self.end()

    def end(self) -> str:
        """Wait for the end, leave no process behind, and say why there is no result ("": finished, or killed here)."""
        hung = self._watched() if self.hung else ""
        self.process.join()
        ALIVE.discard(self)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)  # what the run has started itself
        code = self.process.exitcode
        if hung or code == 0 or self.killed:
            return hung
        with contextlib.suppress(EOFError, OSError):
            return self.link.recv()
        hint = ": the system does that when memory runs out" if code == -signal.SIGKILL else ""
        return f"killed by signal {-code} ({signal.Signals(-code).name}){hint}" if code < 0 else f"exit code {code}"

    def _watched(self) -> str:
        """Wait for the end, or kill it once it has not come an epoch further for too long, and say so."""
        seen, since = None, 0.0
        while not self.ended:
            self.process.join(min(1.0, self.hung / 4))
            if (now := sorted(self.folder.glob("checkpoints/epoch-*"))) != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > self.hung:
                self.process.kill()
                return f"killed: no epoch was completed for {self.hung:g} s (hung={self.hung:g})"
        return ""


# multiprocessing, imported above, waits at the exit for all children; what comes later runs earlier
atexit.register(lambda: [child.kill() for child in list(ALIVE)])


def _execute(link: Connection, values: dict[str, Any], folder: Path, notebook: str, place: tuple) -> None:
    os.setsid()  # a process group of its own: no Ctrl-C of the terminal reaches it, and it can be killed as a whole
    threading.Thread(target=_die_with, args=(link,), daemon=True).start()
    if sys.platform == "linux":  # a paused run reads no pipe: the system kills it with the fork server, its parent
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        os.close(multiprocessing.forkserver._forkserver._forkserver_alive_fd)  # each run's would keep it alive
    environment, cwd, threads = place
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    torch.set_num_threads(threads or torch.get_num_threads())
    while files.in_use(folder):  # another sweep's, or a predecessor's that a lost node has not let go of
        time.sleep(0.2)
    try:
        if notebook:
            _papermill(values, folder, notebook)
        else:
            search(Config(**values), out=folder.parent, progress=Noted(folder / PROGRESS))
    except Exception as error:
        name, value = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", str(error))  # of a cell
        own = "what a session registers, other processes do not know: put it into a file, plugins='my_file.py'"
        link.send(f"{name}: {' '.join(value.split())[:LONGEST]}" + (f" ({own})" if value.startswith("unknown") else ""))
        sys.exit(1)


def _die_with(link: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        link.recv()  # nothing is ever sent down: this returns when the other end is gone
    os.killpg(0, signal.SIGKILL)


def _papermill(values: dict[str, Any], folder: Path, notebook: str) -> None:
    import papermill

    # it warns of every field that the parameters cell does not declare
    logging.getLogger("papermill").setLevel(logging.ERROR)
    folder.parent.mkdir(parents=True, exist_ok=True)
    given = {name: value for name, value in values.items() if value is not None} | {"out": str(folder.parent)}
    kept = str(folder.with_name(f"{folder.name}.ipynb"))
    # a frozen kernel does not notice either that it is alone
    ends = ["--IPKernelApp.exec_lines=import ctypes; ctypes.CDLL(None).prctl(1, 9)"] if sys.platform == "linux" else []
    given = {"parameters": given, "progress_bar": False, "cwd": os.getcwd(), "extra_arguments": ends}
    papermill.execute_notebook(notebook, kept, **given)
    if not (folder / "metrics.json").is_file():
        raise KitError(f"{notebook} ended without a run of its parameters: it has to call kit.search")
