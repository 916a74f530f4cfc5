"""The backend `ray`: a cluster of several machines gives each run its cores and GPUs, also fractions of one. Needs pip
install 'kit[ray]'.

Ray starts the workers and says when one is lost; each run is a process of its own below its Ray worker, as with the
backend `local`.
The folder of run directories has to be one that all machines share.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kit.errors import KitError
from kit.lab.sweep.process import Job, Place, Running

PATIENCE = 5.0  # seconds for a cluster's address to answer


class OnRay:
    """address: host:port of the cluster's head, "auto" for the cluster that this machine is a node of, "local" for a
    new one here.
    """

    def __init__(self, address: str, workers: int | None, threads: int, gpus: float):
        self.ray, self.workers, self.need = _connect(address), workers, {"CPU": float(threads), "GPU": float(gpus)}
        self.threads = threads
        room = self._room()
        largest = max((node.get("GPU", 0.0) for node in self._nodes()), default=0.0)
        if gpus > largest:
            self._leave()
            raise KitError(
                f"gpus={gpus:g} for each run, and no machine of the cluster {address} has more than {largest:g}: ask for fewer, a "
                "fraction, or gpus=0 for the CPU"
            )
        if not room or (gpus and workers and workers > room):
            self._leave()
            raise KitError(
                f"threads={threads}, gpus={gpus:g} for each of {workers or 1} runs at a time: the cluster {address} has room for {room}"
            )
        remote = self.ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=0, max_calls=0)
        self.task = remote(_run)
        self.running: dict[Any, Job] = {}

    @property
    def slots(self) -> int:
        """Of the nodes that live now: one that is lost takes its slots along, one that joins brings some."""
        return max(1, min(self.workers or sys.maxsize, self._room()))

    def start(self, job: Job) -> None:
        place = {"threads": self.threads, "cards": bool(self.need["GPU"])}
        self.running[
            self.task.remote(job.config.model_dump(), str(job.folder.absolute()), job.notebook, place, code())
        ] = job

    def wait(self, seconds: float) -> list[tuple[Job, str | None, bool]]:
        """The jobs that ended meanwhile: (job, why it failed or None, whether its worker or node was lost)."""
        done, _ = self.ray.wait(list(self.running), timeout=seconds)
        ended = []
        for reference in done:
            job = self.running.pop(reference)
            try:
                ended.append((job, self.ray.get(reference), False))
            except self.ray.exceptions.RayTaskError as error:
                ended.append((job, f"{type(error.cause).__name__}: {error.cause}", False))
            except self.ray.exceptions.RayError as error:
                ended.append((job, f"its Ray worker was lost: {' '.join(str(error).split())[:200]}", True))
        return ended

    def stop(self) -> None:
        for reference in self.running:
            self.ray.cancel(reference, force=True)
        self.running.clear()
        self._leave()

    def _leave(self) -> None:
        self.ray.shutdown()

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def _room(self) -> int:
        return sum(
            int(min(node.get(kind, 0.0) / need + 1e-9 for kind, need in self.need.items() if need))
            for node in self._nodes()
        )


def _connect(address: str) -> Any:
    try:
        import ray
    except ImportError:
        raise KitError(
            "backend='ray' needs Ray, which is not installed: pip install 'kit[ray]'; or use backend='local'"
        ) from None
    if ray.is_initialized():
        raise KitError("this process is connected to a Ray cluster already: call ray.shutdown() first")
    how = "start one with `ray start --head`, give host:port of a running one, or address='local' for one on this machine alone"
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host:
        try:
            socket.create_connection((host, int(port)), timeout=PATIENCE).close()
        except (OSError, ValueError, OverflowError) as error:
            raise KitError(f"no Ray cluster answers at {address!r} ({error}): {how}") from None
    elif address not in ("auto", "local"):
        raise KitError(f"address={address!r} is not host:port, 'auto' or 'local': {how}")
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level="ERROR",
            include_dashboard=False if address == "local" else None,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise KitError(f"no Ray cluster at address={address!r} ({' '.join(str(error).split())[:200]}): {how}") from None
    return ray


def code() -> str:
    """A digest of kit's source: all machines of a sweep must have the same, or the runs would not be comparable."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


# ---- in the Ray worker ---------------------------------------------------------------------------


def _run(values: dict[str, Any], folder: str, notebook: str | None, place: dict[str, Any], digest: str) -> str | None:
    """One run; why it failed, or None. What Ray has given the task of GPUs is in CUDA_VISIBLE_DEVICES, which it changes
    between tasks.
    """
    from kit.config import Config

    if code() != digest:
        return f"KitError: {socket.gethostname()} has another kit ({Path(__file__).parents[1]}) than the machine that started the sweep: install the same"
    cards = os.environ.get("CUDA_VISIBLE_DEVICES", "") if place["cards"] else ""
    job = Job(Config(**values), Path(folder), notebook)
    with _without_main():
        running = Running(job, Place(place["threads"], None, cards))
    return running.end()


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """multiprocessing imports the main program in a new process, to find what was pickled of it: Ray's takes seconds,
    and is not needed.
    """
    main = sys.modules["__main__"]
    name = vars(main).pop("__file__", None)
    try:
        yield
    finally:
        if name is not None:
            main.__file__ = name
