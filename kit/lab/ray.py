"""The backend `ray` of a sweep: a cluster gives each run its cores and GPUs, also fractions of one, and starts a run
again elsewhere whose worker or node is lost. Needs pip install 'kit[ray]'.

All machines need the same kit and one shared folder of run directories. Each run is a process of its own below its Ray
worker, as on one machine.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit.errors import KitError, summary
from kit.lab.process import ChildProcess

LOST = 3  # times that a run may lose its worker or node


def connect(address: str, threads: int, gpus: float) -> tuple[Callable[..., str], int, Callable[[], None]]:
    """(run, as `ChildProcess.end` after its arguments; how many runs the cluster has room for; what ends all of them).

    address: host:port of the cluster's head, "auto" for the cluster that this machine is a node of, "local" for a new
    one here. Raises KitError where Ray is not installed, no cluster answers, or none of its nodes has room for a run.
    """
    try:
        import ray
    except ImportError:
        raise KitError(
            "backend='ray' needs Ray, which is not installed: pip install 'kit[ray]'; or use backend='local'"
        ) from None
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    except Exception as error:
        raise KitError(
            f"no Ray cluster answers at {address!r} ({summary(error)}): start one with `ray start --head`, give "
            "host:port of a running one, or address='local' for one here alone"
        ) from None
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    needs = {"CPU": threads} | ({"GPU": gpus} if gpus else {})
    room = sum(int(min(node.get(kind, 0) / need + 1e-9 for kind, need in needs.items())) for node in nodes)
    if not room:
        ray.shutdown()
        raise KitError(
            f"threads={threads}, gpus={gpus:g} for each run, and no machine of the cluster {address} has as much: ask "
            "for fewer, a fraction of a GPU, or gpus=0 for the CPU"
        )
    task = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=LOST, max_calls=0)(_run)

    def run(values: dict[str, Any], folder: Path, **options: Any) -> str:
        try:
            return ray.get(task.remote(values, folder.absolute(), os.getcwd(), bool(gpus), options))
        except ray.exceptions.RayError as error:
            return f"its Ray worker was lost: {summary(error)}"

    return run, room, ray.shutdown


def _run(values: dict[str, Any], folder: Path, cwd: str, gpus: bool, options: dict[str, Any]) -> str:
    """In the Ray worker, for which Ray names the task's GPUs in CUDA_VISIBLE_DEVICES."""
    with contextlib.suppress(OSError):  # a machine may not have it
        os.chdir(cwd)
    cards = os.environ.get("CUDA_VISIBLE_DEVICES", "") if gpus else ""
    return ChildProcess(values, folder, cards=cards, **options).end()
