"""Latency of a space's children on the device that will run them: a table of its candidates, and whole children timed
for real.

A search asks for the latency of thousands of children, so it adds up a table: every candidate is timed alone, once per
operation and shape, and whole children give the fixed part and the scale of the sum (as in FBNet and ProxylessNAS). By
how much whole children exceed such a sum is in `margin`; what must hold is timed for real (`LatencyTable.measure`).

All numbers are milliseconds of one forward pass of a batch of uint8 images in evaluation mode, float32, by
`torch.utils.benchmark`: the smallest of several blocks of passes, since other processes only ever add time. One CPU
thread is timed by its own clock, which stands still while another process has the core.
"""

from __future__ import annotations

import copy
import json
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kit.errors import KitError
from kit.space import build
from kit.space.child import everything
from kit.space.limits import cheapest
from kit.space.network import Child, Network, Picks

CALIBRATION, CHECKS = 12, 8  # whole children: for the fit, and for the margin alone
TRIES = 3  # times that a child may be over a limit before it counts
SPREAD, SECONDS = 0.1, 0.3  # a time is taken until its blocks' quartiles are so close, or for so long


@dataclass
class LatencyTable:
    """candidates_ms: [slot][candidate], what each adds; fixed_ms: what every child has. timed: whole children, in
    milliseconds. margin: the most that one of them exceeded its prediction by, as a factor ≥ 1. path: its file.
    """

    network: Network | None
    device: str
    hardware: str
    batch: int
    threads: int
    fixed_ms: float = 0.0
    candidates_ms: list[list[float]] = field(default_factory=list)
    margin: float = 1.0
    timed: dict[Picks, float] = field(default_factory=dict)
    path: Path | None = None

    def predict(self, picks: Picks) -> float:
        """The table's sum for a child."""
        return self.fixed_ms + sum(self.candidates_ms[slot][c] for slot, chosen in enumerate(picks) for c in chosen)

    def bound(self, picks: Picks) -> float:
        """What a limit is compared with: the child's own time where it was taken, else margin × the prediction."""
        return self.timed.get(picks, self.margin * self.predict(picks))

    def measure(self, picks: Picks, limit: float = math.inf) -> float:
        """The child's own time, taken at the first call and kept in the file: a resumed run decides by the same number.

        limit: a time beyond it is taken again, `TRIES` times in all, and the smallest counts.
        """
        if picks not in self.timed:
            for _ in range(TRIES):
                ms = time_child(self.network, picks, torch.device(self.device), self.batch, self.threads)
                self.timed[picks] = min(ms, self.timed.get(picks, ms))
                if self.timed[picks] <= limit:
                    break
            self.save()
        return self.timed[picks]

    def fit(self) -> None:
        """Time the candidates and some whole children: fixed + scale · Σ, by least squares of the relative error, since
        operations may run faster in a row than alone."""
        where = torch.device(self.device), self.batch, self.threads
        self.candidates_ms = candidate_times(self.network, *where)
        children = _children(self.network, self.candidates_ms)
        self.timed = {picks: time_child(self.network, picks, *where) for picks in children}
        few = children[:CALIBRATION]
        sums, ms = np.array([self.predict(picks) for picks in few]), np.array([self.timed[picks] for picks in few])
        scale, fixed = np.polyfit(sums, ms, 1, w=1 / ms) if np.ptp(sums) > 0 else (0.0, 0.0)
        if scale <= 0:  # the operations are lost in what every child has
            scale, fixed = 0.0, 1 / np.mean(1 / ms)
        self.fixed_ms, self.candidates_ms = (
            float(fixed),
            [[float(scale * t) for t in row] for row in self.candidates_ms],
        )
        self.margin = max(1.0, *(taken / self.predict(picks) for picks, taken in self.timed.items()))

    def save(self) -> None:
        """Write the file, whole or not at all."""
        if self.path is not None:
            values = {name: value for name, value in vars(self).items() if name not in ("network", "timed", "path")}
            values["timed"] = [{"picks": picks, "ms": ms} for picks, ms in self.timed.items()]
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
            temporary.write_text(json.dumps(values, indent=2) + "\n")
            os.replace(temporary, self.path)

    def __str__(self) -> str:
        return f"batch {self.batch}, {self.hardware}, {self.threads} thread(s)"


def table(
    network: Network, device: torch.device | str, batch: int = 1, path: Path | None = None, threads: int | None = None
) -> LatencyTable:
    """The table in `path` if there is one, else measured now and written there. threads: of the CPU; None: as many as
    torch has now.

    A table measured again has other numbers, and a resumed search would decide otherwise: so it lives with the run.
    Raises KitError for a file that is not a table of this network.
    """
    if path is None or not path.is_file():
        threads, device = threads or torch.get_num_threads(), torch.device(device)
        made = LatencyTable(network, str(device), hardware(device), batch, threads, path=path)
        made.fit()
        if path is None:
            return made
        if not path.is_file():  # two processes may begin one run: the first table is both's
            made.save()
    return read(path, network)


def recorded(path: Path, picks: Picks) -> tuple[float, str] | None:
    """A child's own time in a table's file, in milliseconds, and in words on what; None where it has none."""
    found = read(path) if path.is_file() else None
    return (found.timed[picks], str(found)) if found is not None and picks in found.timed else None


def read(path: Path, network: Network | None = None) -> LatencyTable:
    """A table that `table` wrote. Raises KitError for another file, or for a table of another network."""
    try:
        values = json.loads(path.read_text())
        timed = {tuple(tuple(map(int, slot)) for slot in each["picks"]): float(each["ms"]) for each in values["timed"]}
        found = LatencyTable(**{**values, "network": network, "timed": timed, "path": path})
        fits = found.margin >= 1.0 and math.isfinite(found.fixed_ms + sum(map(sum, found.candidates_ms)))
        sizes = None if network is None else [len(slot.candidates) for slot in network.slots]
        fits &= sizes in (None, [len(row) for row in found.candidates_ms])
    except (OSError, AttributeError, KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise KitError(
            f"{path} is not a latency table of this network: the run directory was altered; remove the file to measure "
            "again (the search may then take another architecture)"
        )
    return found


def _children(network: Network, alone: list[list[float]]) -> list[Picks]:
    """The fastest and the slowest by the sum, then random ones, all different."""
    slots, rows = network.slots, [np.array(row) for row in alone]
    chance, found = np.random.RandomState(0), dict.fromkeys(cheapest(slots, rows, sign) for sign in (1, -1))
    for _ in range(10 * (CALIBRATION + CHECKS)):
        if len(found) < CALIBRATION + CHECKS:
            found[cheapest(slots, [chance.rand(len(row)) for row in rows])] = None
    return list(found)


@torch.no_grad()
def candidate_times(network: Network, device: torch.device, batch: int, threads: int) -> list[list[float]]:
    """Milliseconds of every candidate alone, [slot][candidate]: the modules that only run when it is picked, one timing
    per shape and memory layout."""
    twin = copy.deepcopy(network).to(device, memory_format=torch.channels_last).eval()
    slots, none = network.slots, [()] * len(network.slots)
    fixed = set(twin.modules_of(tuple(none)))

    def own(slot: int, candidate: int) -> list[nn.Module]:
        picked = twin.modules_of((*none[:slot], (candidate,), *none[slot + 1 :]))
        return [module for module in picked if module not in fixed]

    modules = [[own(i, c) for c in range(len(slot.candidates))] for i, slot in enumerate(slots)]
    keys: dict[nn.Module, Any] = {}
    ms: dict[Any, float] = {}

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        tensors = [x for x in inputs if isinstance(x, Tensor)]
        # a module's text names all its layers and their sizes
        keys[module] = key = (repr(module), *((x.shape, x.stride()) for x in tensors))
        if key not in ms:
            given = [torch.randn_like(x) for x in tensors]
            ms[key] = _milliseconds(lambda: module.forward(*given), device, threads)

    for module in {module for row in modules for each in row for module in each}:
        module.register_forward_pre_hook(note)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        twin(torch.zeros((batch, *network.image), dtype=torch.uint8, device=device), Child(everything(slots)))
    return [[sum(ms[keys[module]] for module in each) for each in row] for row in modules]


# ---- the clock -----------------------------------------------------------------------------------


def time_child(network: Network, picks: Picks, device: torch.device, batch: int, threads: int) -> float:
    """Milliseconds of a forward pass of the child alone, as it is deployed: laid out as `Run.model()` has it."""
    with torch.random.fork_rng(devices=[]):  # its weights do not matter and must not shift the search's draws
        alone = build(**network.spec(picks))
    return time_model(alone.to(device, memory_format=torch.channels_last).eval(), network.image, device, batch, threads)


def time_model(model: nn.Module, image: tuple[int, ...], device: torch.device, batch: int, threads: int) -> float:
    """Milliseconds of a forward pass of a batch of uint8 images [batch, *image] that lie on the device."""
    chance = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, *image), dtype=torch.uint8, generator=chance).to(device)
    return _milliseconds(lambda: model(images), device, threads)


def _milliseconds(call: Callable[[], Any], device: torch.device, threads: int) -> float:
    from torch.utils.benchmark import Timer  # looks for compilers

    clock = {"timer": time.thread_time} if device.type == "cpu" and threads == 1 else {}
    with torch.no_grad():
        timer = Timer("call()", globals={"call": call}, num_threads=threads, **clock)
        return 1e3 * min(timer.adaptive_autorange(SPREAD, max_run_time=SECONDS).times)


def hardware(device: torch.device) -> str:
    """The name of what runs the children."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"
