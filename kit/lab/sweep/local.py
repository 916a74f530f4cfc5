"""The backend `local`: processes on this machine, one per GPU (or a share of one), or one per set of cores."""

from __future__ import annotations

import os
from multiprocessing.connection import wait

from kit.errors import KitError
from kit.lab.sweep.process import Job, Place, Running


class Local:
    """workers: runs at a time, None: as many as the GPUs or, without, the cores allow. gpus: of each run; 0.5: two
    share one.
    """

    def __init__(self, workers: int | None, threads: int, gpus: float):
        cores = _cores()
        cards = _cards() if gpus else []
        if gpus > len(cards):
            raise KitError(
                f"gpus={gpus:g} for each run, and this machine has {len(cards)}: ask for fewer, a fraction, or gpus=0 for the CPU"
            )
        per_card = int(1 / gpus + 1e-9) if 0 < gpus < 1 else 1
        room = len(cards) // max(1, int(gpus)) * per_card if gpus else max(1, len(cores) // threads)
        self.slots = workers or room
        if gpus and self.slots > room:
            raise KitError(
                f"workers={workers} of gpus={gpus:g} each need {self.slots * gpus:g} GPUs, and this machine has {len(cards)}: "
                f"workers={room} fit, or a smaller fraction"
            )
        self.free = [
            Place(threads, _share(cores, i, self.slots, threads), _cut(cards, i, gpus)) for i in range(self.slots)
        ]
        self.running: dict[int, tuple[Running, Place]] = {}

    def start(self, job: Job) -> None:
        place = self.free.pop(0)
        if job.config.device.startswith("cuda:"):  # its own choice among all cards
            place = Place(place.threads, place.cores)
        running = Running(job, place)
        self.running[running.sentinel] = (running, place)

    def wait(self, seconds: float) -> list[tuple[Job, str | None, bool]]:
        """The jobs that ended meanwhile: (job, why it failed or None, False: no run is lost through another's fault
        here).
        """
        ended = []
        for sentinel in wait(list(self.running), timeout=seconds):
            running, place = self.running.pop(sentinel)
            self.free.append(place)
            ended.append((running.job, running.end(), False))
        return ended

    def stop(self) -> None:
        for running, _ in self.running.values():
            running.kill()
        self.running.clear()


def visible_gpus() -> int:
    return len(_cards())


def room() -> int:
    """Runs at a time, each with a GPU or, without any, a core."""
    return visible_gpus() or len(_cores())


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _cards() -> list[str]:
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()  # asks the driver; makes no context
    return named.split(",")[:count] if named else [str(i) for i in range(count)]


def _share(cores: list[int], slot: int, slots: int, threads: int) -> tuple[int, ...] | None:
    """The slot's own cores where the slots take all of them; None, so any, elsewhere: two small sweeps would meet on
    the first ones.
    """
    return tuple(cores[slot * threads : (slot + 1) * threads]) if slots * threads == len(cores) else None


def _cut(cards: list[str], slot: int, gpus: float) -> str:
    """The slot's cards. A share below one is of one card: slots 0 and 1 of gpus=0.5 have card 0."""
    if 0 < gpus < 1:
        return cards[slot // int(1 / gpus + 1e-9)]
    return ",".join(cards[slot * int(gpus) : (slot + 1) * int(gpus)])
