"""Runs on a Ray cluster: GPU shares, several nodes, workers and nodes that die. The nodes share the files that `out` is among."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any, Callable

from kit.config import Config
from kit.errors import KitError
from kit.store import InUse
from kit.sweep.board import EVERY, Board, Failure

ANSWER = 5.0  # seconds that a cluster has to answer
LOST = 10  # times that Ray starts a run again whose worker or node died
HELD = 120.0  # seconds that a run waits for the lock of a process that is dying elsewhere


def executor(address: str | None, workers: int | None, threads: int, gpus: float) -> Callable[..., list[Failure]]:
    """Connects, and refuses what the cluster does not have."""
    try:
        import ray
    except ImportError:
        raise KitError("backend='ray' needs the package ray: pip install 'kit[ray]', or use backend='local'") from None
    if not ray.is_initialized():
        if address not in (None, "auto", "local"):
            _check_answers(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", include_dashboard=False if address is None else None)
    there = ray.cluster_resources()
    largest = max((node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
    if gpus > largest:
        raise KitError(f"gpus={gpus}: the cluster's largest node has {largest:g} GPU(s): ask for at most that, or a fraction such as 0.5")
    if threads > there.get("CPU", 0):
        raise KitError(f"threads={threads}: the cluster has {there.get('CPU', 0):g} CPU(s): ask for fewer")

    def execute(todo: list[tuple[Config, Path]], retries: int, board: Board, notebook: str | Path | None) -> list[Failure]:
        return _work_off(ray, todo, workers, threads, gpus, retries, board, notebook)

    return execute


def _check_answers(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=ANSWER):
            pass
    except (OSError, ValueError) as error:
        raise KitError(f"address={address!r}: no cluster answers there ({error}); give HOST:PORT of a head node as `ray start --head` prints it, or "
                       "leave address out to start one on this machine") from None  # fmt: skip


def _work_off(ray: Any, todo: list[tuple[Config, Path]], workers: int | None, threads: int, gpus: float, retries: int, board: Board,
              notebook: str | Path | None) -> list[Failure]:  # fmt: skip
    # a process for each run, so that nothing of one is left in another's; Ray ends it with the node
    remote = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=LOST, max_calls=1)(_work)
    pending: dict[Any, tuple[Config, Path]] = {}
    failures, queue, tries = [], list(todo), dict.fromkeys((folder for _, folder in todo), 0)
    try:
        while queue or pending:
            while queue and len(pending) < (workers or len(todo)):
                config, folder = queue.pop(0)
                values, where = config.model_dump(), str(folder.resolve())
                pending[remote.options(name=folder.name).remote(values, where, threads, notebook and str(notebook))] = (config, folder)
                board.start(folder)
            for done in ray.wait(list(pending), num_returns=1, timeout=EVERY)[0]:
                task = pending.pop(done)
                cause = _cause(ray, done)
                if cause and tries[task[1]] < retries:
                    tries[task[1]] += 1
                    board.again(task[1], cause)
                    queue.append(task)
                    continue
                if cause:
                    failures.append(Failure(task[1].name, cause))
                board.finish(task[1], cause)
            board.look()
    finally:
        for left in pending:
            ray.cancel(left, force=True)
    return failures


def _cause(ray: Any, done: Any) -> str | None:
    try:
        return ray.get(done)
    except ray.exceptions.RayError as error:
        return f"{type(error).__name__}: its worker or node died {LOST + 1} times"


def _work(values: dict[str, Any], folder: str, threads: int, notebook: str | None) -> str | None:
    """In a Ray worker: the run, or why it failed. A run that another worker began goes on from its last checkpoint."""
    from kit.sweep.local import execute

    until = time.monotonic() + HELD
    while True:
        try:
            execute(values, folder, threads, notebook)
            return None
        except InUse as error:
            # the node on which it ran before is taken for dead, and its process has yet to notice
            if time.monotonic() > until:
                return f"{type(error).__name__}: {error}"
            time.sleep(1.0)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
