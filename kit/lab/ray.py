"""The backend `ray`: a cluster of several machines gives each run its cores and GPUs, also fractions of one. Needs pip
install 'kit[ray]'.

Ray starts the workers and says when one is lost; each run is a process of its own below its Ray worker. The folder of
run directories has to be one that all machines share.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import sys
from pathlib import Path
from typing import Any

from kit.errors import KitError
from kit.lab.process import ChildProcess

PATIENCE = 5.0  # seconds for a cluster's address to answer


class OnRay:
    """address: host:port of the cluster's head, "auto" for the cluster that this machine is a node of, "local" for a
    new one here.
    """

    def __init__(self, address: str, workers: int | None, threads: int, gpus: float):
        self.ray, self.workers, self.threads, self.gpus = _connect(address), workers, threads, gpus
        room = self._room()
        if not room or (gpus and workers and workers > room):
            self.ray.shutdown()
            raise KitError(
                f"threads={threads}, gpus={gpus:g} for each of {workers or 1} runs at a time: the machines of the "
                f"cluster {address} have room for {room}; ask for fewer, a fraction of a GPU, or gpus=0 for the CPU"
            )
        self.task = self.ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=0, max_calls=0)(_run)
        self.running: dict[Any, Any] = {}

    @property
    def slots(self) -> int:
        """Of the nodes that live now: one that is lost takes its slots along, one that joins brings some."""
        return max(1, min(self.workers or sys.maxsize, self._room()))

    def start(self, job: Any) -> None:
        where, options = (os.getcwd(), str(job.folder.absolute())), {"threads": self.threads, "notebook": job.notebook}
        reference = self.task.remote(job.config.model_dump(), where, options, bool(self.gpus), code())
        self.running[reference] = job

    def wait(self, seconds: float) -> list[tuple[Any, str, bool]]:
        """As of `kit.lab.sweep.Local`."""
        ended = []
        for reference in self.ray.wait(list(self.running), timeout=seconds)[0]:
            cause, lost = "", False
            try:
                cause = self.ray.get(reference)
            except self.ray.exceptions.RayTaskError as error:
                cause = f"{type(error.cause).__name__}: {error.cause}"
            except self.ray.exceptions.RayError as error:
                cause, lost = f"its Ray worker was lost: {' '.join(str(error).split())[:200]}", True
            ended.append((self.running.pop(reference), cause, lost))
        return ended

    def stop(self) -> None:
        for reference in self.running:
            self.ray.cancel(reference, force=True)
        self.running.clear()
        self.ray.shutdown()

    def _room(self) -> int:
        """Runs at a time on the nodes that live."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        need = {"CPU": self.threads} | ({"GPU": self.gpus} if self.gpus else {})
        return sum(int(min(node.get(kind, 0) / amount + 1e-9 for kind, amount in need.items())) for node in nodes)


def _connect(address: str) -> Any:
    try:
        import ray
    except ImportError:
        raise KitError(
            "backend='ray' needs Ray, which is not installed: pip install 'kit[ray]'; or use backend='local'"
        ) from None
    if ray.is_initialized():
        raise KitError("this process is connected to a Ray cluster already: call ray.shutdown() first")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=PATIENCE).close()
        elif address not in ("auto", "local"):
            raise ValueError("it is not host:port, 'auto' or 'local'")
        board = False if address == "local" else None
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", include_dashboard=board)
    except (OSError, RuntimeError, ValueError, OverflowError) as error:
        raise KitError(
            f"no Ray cluster answers at {address!r} ({' '.join(str(error).split())[:200]}): start one with `ray start "
            "--head`, give host:port of a running one, or address='local' for one here alone"
        ) from None
    return ray


def code() -> str:
    """A digest of kit's source: all machines of a sweep must have the same, or the runs would not be comparable."""
    digest, root = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _run(values: dict[str, Any], where: tuple[str, str], options: dict[str, Any], gpus: bool, digest: str) -> str:
    """In the Ray worker: one run; why it has no result, or "". Ray names the task's GPUs in CUDA_VISIBLE_DEVICES.

    where: the working directory, from which relative paths start, and the run directory.
    """
    if code() != digest:
        return f"KitError: {socket.gethostname()} has another kit ({Path(__file__).parents[1]}): install the same there"
    with contextlib.suppress(OSError):  # a machine may not have it
        os.chdir(where[0])
    cards = os.environ.get("CUDA_VISIBLE_DEVICES", "") if gpus else ""
    return ChildProcess(values, Path(where[1]), cards=cards, **options).end()
