"""A search in a process of its own, and the hand on it: pause, resume, stop.

    python -m kit.lab.live.worker PID < config.json

runs `kit.search` while process PID, its parent, lives. The process has a group of its own, so that interrupting a
kernel does not reach
it; signals go to the group, so that they reach whatever the search starts. It cannot outlive the kernel: it looks for
its parent once a
second, and one that is paused is hung up on by the system, as every stopped group is whose last tie to its session ends
(POSIX, _exit).
Killed at any moment, a run keeps its last completed epoch: `kit.search` of the same configuration goes on from there.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import kit
from kit import data
from kit.config import Config
from kit.errors import KitError
from kit.run import store

GRACE = 10.0  # seconds from the request to end to the kill
WORKERS: dict[Path, Worker] = {}  # of this kernel, by run directory


class Worker:
    """state: running, paused, stopping or ended. A stopped search is no failure; `cause()` tells why one ended by
    itself.
    """

    def __init__(self, config: Config):
        """Start the search, or go on with it. Raises KitError when its run directory is in use, or its data set is
        known here alone.
        """
        self.folder = folder_of(config)
        refuse_what_it_cannot_see(config)
        if user := in_use(self.folder):
            raise KitError(user)
        self.log = tempfile.TemporaryFile()  # of what it prints; the run directory keeps the run alone
        path = [str(Path(kit.__file__).resolve().parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kit.lab.live.worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            process_group=0,
            env=environment,
        )
        self.paused, self.deadline = False, 0.0  # deadline: when a stopping one is killed
        self.owner: object = None  # the panel that has it in hand
        with (
            contextlib.suppress(BrokenPipeError),
            self.process.stdin as pipe,
        ):  # of a process that could not even begin: see `cause`
            pipe.write(json.dumps(config.model_dump()).encode())
        WORKERS[self.folder.resolve()] = self

    @property
    def state(self) -> str:
        if self.process.poll() is not None:
            if WORKERS.get(self.folder.resolve()) is self:
                del WORKERS[self.folder.resolve()]
            return "ended"
        if self.deadline:
            if time.monotonic() > self.deadline:
                self._send(signal.SIGKILL)
            return "stopping"
        return "paused" if self.paused else "running"

    def pause(self) -> None:
        """Hold the search where it is; it keeps its memory, a GPU's included."""
        if self.state == "running":
            self._send(signal.SIGSTOP)
            self.paused = True

    def resume(self) -> None:
        if self.state == "paused":
            self._send(signal.SIGCONT)
            self.paused = False

    def stop(self) -> None:
        """Ask the search to end, also a paused one; `state` kills it after a grace period. What it has not checkpointed
        is lost.
        """
        if self.state in ("running", "paused"):
            self._send(signal.SIGTERM)
            self._send(signal.SIGCONT)
            self.paused, self.deadline = False, time.monotonic() + GRACE

    def cause(self) -> str:
        """Why an ended search has no result: its last words, or the signal that killed it. "" for one that finished or
        was stopped.
        """
        code = self.process.returncode
        if not code or self.deadline:
            return ""
        if code < 0:
            name = signal.Signals(-code).name
            return f"the search was killed by {name}" + (
                " (the system may have run out of memory)" if name == "SIGKILL" else ""
            )
        lines = self.said()
        return lines[-1] if lines else f"the search ended with exit code {code}"

    def close(self) -> None:
        """Let go of what an ended search printed."""
        self.log.close()

    def said(self, last: int = 20) -> list[str]:
        """The last lines that it printed."""
        size = os.fstat(self.log.fileno()).st_size
        text = os.pread(self.log.fileno(), 16384, max(0, size - 16384)).decode(errors="replace")
        return [line for line in text.splitlines() if line.strip()][-last:]

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it ended this moment
            os.killpg(self.process.pid, number)


def folder_of(config: Config) -> Path:
    return Path(config.out).expanduser() / config.name


def in_use(folder: Path) -> str:
    """Who works in a run directory, as the error that a second one gets; "" if nobody does."""
    if not (folder / ".lock").is_file():
        return ""
    try:
        with store.exclusive(folder):
            return ""
    except KitError as error:
        return str(error)


def refuse_what_it_cannot_see(config: Config) -> None:
    from kit.lab.live import BUILT_IN

    if config.dataset in data.datasets() and config.dataset not in BUILT_IN:
        raise KitError(
            f"the data set {config.dataset!r} was registered in this notebook, and the search runs in a process of its own that "
            "does not know it: give the path of a folder of class folders, or run kit.search(config) in a cell"
        )


# ---- in the process ------------------------------------------------------------------------------


def main() -> None:
    parent = int(sys.argv[1])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)  # an exit, so that half-written files are cleared away
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    values = json.load(sys.stdin)
    from kit.search.engine import search
    from kit.search.progress import Lines

    try:
        search(Config(**values), progress=Lines(every=0))
    except KitError as error:
        raise SystemExit(" ".join(str(error).split())) from None


def _end(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def _follow(parent: int) -> None:
    """End with the parent."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)


if __name__ == "__main__":
    main()
