"""Latency of a space's children on the device that will run them: a table of its candidates, and whole children timed
for real.

A search asks for the latency of thousands of children, so it adds up a table: every candidate operation is timed alone,
once per operation
and shape, and whole children give the fixed part and the scale of the sum (as in FBNet and ProxylessNAS). What such a
sum misses is in
`error` and `margin`, measured on children that did not make the table; what must hold is timed for real
(`LatencyTable.measure`).

All numbers are milliseconds of one forward pass of a batch of uint8 images in evaluation mode, float32, with a stated
number of threads:
after a warm-up, the smallest of three or more medians of ten passes, since other processes only ever add time. One CPU
thread is timed by its
own clock, which stands still while another process has the core; several threads by the wall's; a GPU by its events.
"""

from __future__ import annotations

import contextlib
import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kit.errors import KitError
from kit.run import provenance, store
from kit.space import build
from kit.space.network import Child, Network, Picks, Slot

WARM_UP, PASSES, LONGEST = 3, 10, 0.3  # LONGEST: seconds after which three passes make a group
GROUPS, MOST_GROUPS, AGREE = 3, 10, 1.05  # on a busy machine more groups, until the two smallest medians agree
CALIBRATION, CHECKS = 12, 8  # whole children: for the fit, and to judge it
SUSPECT = 0.1  # a child this far off its prediction is timed once more
TRIES = 3  # times that a child may be over a limit before it counts


@dataclass
class LatencyTable:
    """candidates_ms: [slot][candidate], what each adds; fixed_ms: what every child has. timed: whole children, in
    milliseconds.

    margin: the most that a timed child exceeded its prediction by, as a factor ≥ 1. error: {"children", "median",
    "max"}, |predicted /
    measured − 1| on `CHECKS` random children that are not in the fit (None where the space has too few).
    """

    network: Network
    device: str
    hardware: str
    batch: int
    threads: int
    fixed_ms: float
    candidates_ms: list[list[float]]
    margin: float
    error: dict[str, Any] | None
    timed: dict[Picks, float] = field(default_factory=dict)
    path: Path | None = None

    def predict(self, picks: Picks) -> float:
        """The table's sum for a child."""
        return self.fixed_ms + sum(self.candidates_ms[slot][c] for slot, chosen in enumerate(picks) for c in chosen)

    def bound(self, picks: Picks) -> float:
        """What a limit is compared with: the child's own time where it was taken, else margin × the prediction."""
        known = self.timed.get(picks)
        return self.margin * self.predict(picks) if known is None else known

    def measure(self, picks: Picks, limit: float = math.inf) -> float:
        """The child's own time, taken at the first call and kept in the file: a resumed run decides by the same number.

        limit: a time beyond it is taken again, `TRIES` times in all, and the smallest counts.
        """
        if picks not in self.timed:
            taken: list[float] = []
            while not taken or (len(taken) < TRIES and min(taken) > limit):
                taken.append(time_child(self.network, picks, torch.device(self.device), self.batch, self.threads))
            self.timed[picks] = min(taken)
            self.save()
        return self.timed[picks]

    def save(self) -> None:
        if self.path is not None:
            store.write_json(self.path, self.values())

    def values(self) -> dict[str, Any]:
        plain = {
            name: getattr(self, name)
            for name in ("device", "hardware", "batch", "threads", "fixed_ms", "candidates_ms", "margin", "error")
        }
        return {**plain, "timed": [{"picks": picks, "ms": ms} for picks, ms in self.timed.items()]}

    def __str__(self) -> str:
        return f"batch {self.batch}, {self.hardware}, {self.threads} thread(s)"


def table(
    network: Network, device: torch.device | str, batch: int = 1, path: Path | None = None, threads: int | None = None
) -> LatencyTable:
    """The table in `path` if there is one, else measured now and written there. threads: of the CPU; None: as many as
    torch has now.

    A table measured again has other numbers, and a resumed search would decide otherwise: so it lives with the run.
    Raises KitError for a
    file that is not a table of this network.
    """
    if path is None or not path.is_file():
        made = _measured(network, torch.device(device), batch, threads or torch.get_num_threads())
        made.path = path
        if path is None:
            return made
        if not path.is_file():  # two processes may begin one run: the first table is both's
            made.save()
    return read(network, path)


def recorded(path: Path, picks: Picks) -> tuple[float, str] | None:
    """A child's own time in a table's file, in milliseconds, and in words on what; None where it has none."""
    if not path.is_file():
        return None
    values = store.read_json(path)
    try:
        ms = _timed(values).get(picks)
        return (
            None
            if ms is None
            else (ms, f"batch {values['batch']}, {values['hardware']}, {values['threads']} thread(s)")
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        raise KitError(f"{path} is not a latency table: the run directory was altered") from None


def _timed(values: dict[str, Any]) -> dict[Picks, float]:
    return {
        tuple(tuple(int(c) for c in slot) for slot in entry["picks"]): float(entry["ms"]) for entry in values["timed"]
    }


def read(network: Network, path: Path) -> LatencyTable:
    """A table that `table` wrote."""
    values = store.read_json(path)
    try:
        timed = _timed(values)
        values.pop("timed")
        found = LatencyTable(network, timed=timed, path=path, **values)
        fits = [len(row) for row in found.candidates_ms] == [
            len(slot.candidates) for slot in network.slots
        ] and found.margin >= 1.0
    except (AttributeError, KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise KitError(
            f"{path} is not a latency table of this network: the run directory was altered; remove the file to measure again "
            "(the search may then take another architecture)"
        )
    return found


# ---- the table -----------------------------------------------------------------------------------


def _measured(network: Network, device: torch.device, batch: int, threads: int) -> LatencyTable:
    alone = candidate_times(network, device, batch, threads)
    made = LatencyTable(network, str(device), hardware(device), batch, threads, 0.0, alone, 1.0, None)
    children = _children(network.slots, alone)
    for picks in children:
        made.timed[picks] = time_child(network, picks, device, batch, threads)
    _fit(made, alone, children[:CALIBRATION])
    for picks in children:
        if abs(made.predict(picks) / made.timed[picks] - 1) > SUSPECT:
            made.timed[picks] = min(made.timed[picks], time_child(network, picks, device, batch, threads))
    _fit(made, alone, children[:CALIBRATION])
    made.margin = max(1.0, *(ms / made.predict(picks) for picks, ms in made.timed.items()))
    errors = [abs(made.predict(picks) / made.timed[picks] - 1) for picks in children[CALIBRATION:]]
    made.error = {"children": len(errors), "median": statistics.median(errors), "max": max(errors)} if errors else None
    return made


def _fit(made: LatencyTable, alone: list[list[float]], children: list[Picks]) -> None:
    """fixed + scale · Σ, by least squares of the relative error; a launch-bound GPU runs operations faster in a row
    than alone.
    """
    x = np.array([sum(alone[slot][c] for slot, chosen in enumerate(picks) for c in chosen) for picks in children])
    y = np.array([made.timed[picks] for picks in children])
    scale, fixed = 0.0, float(1.0 / np.mean(1.0 / y))
    if np.ptp(x) > 0:
        (slope, start), *_ = np.linalg.lstsq(
            np.stack([x, np.ones_like(x)], axis=1) / y[:, None], np.ones_like(y), rcond=None
        )
        if slope > 0:  # else the operations are lost in what every child has
            scale, fixed = float(slope), float(start)
    made.fixed_ms, made.candidates_ms = fixed, [[scale * ms for ms in row] for row in alone]


def _children(slots: tuple[Slot, ...], alone: list[list[float]]) -> list[Picks]:
    """The fastest and the slowest by the sum, then random ones, all different."""
    ends = [
        tuple(
            tuple(sorted(sorted(range(len(row)), key=lambda c, row=row: sign * row[c])[: slot.takes]))
            for slot, row in zip(slots, alone)
        )
        for sign in (1, -1)
    ]
    chance, found = np.random.RandomState(0), dict.fromkeys(ends)
    for _ in range(10 * (CALIBRATION + CHECKS)):
        if len(found) == CALIBRATION + CHECKS:
            break
        found.setdefault(
            tuple(tuple(sorted(chance.permutation(len(slot.candidates))[: slot.takes].tolist())) for slot in slots)
        )
    return list(found)


def candidate_times(network: Network, device: torch.device, batch: int, threads: int) -> list[list[float]]:
    """Milliseconds of every candidate alone, [slot][candidate]: the modules that only run when it is picked, one timing
    per shape.
    """
    inputs = inputs_of_modules(network, device, batch)
    known: dict[tuple, float] = {}

    def of(module: nn.Module, name: str) -> float:
        key = (repr(module), inputs[name])  # a module's text names all its layers and their sizes
        if key not in known:
            known[key] = _time_module(module, inputs[name], device, threads)
        return known[key]

    names = {id(module): name for name, module in network.named_modules()}
    rows = []
    for index, slot in enumerate(network.slots):
        own = [_own_modules(network, index, c) for c in range(len(slot.candidates))]
        rows.append([sum(of(m, names[id(m)]) for m in modules) for modules in own])
    return rows


def _own_modules(network: Network, index: int, candidate: int) -> list[nn.Module]:
    """The modules that run with a candidate and not without it."""
    slot = network.slots[index]
    if len(slot.candidates) == slot.takes:
        return []  # no choice: part of what every child has
    others = [c for c in range(len(slot.candidates)) if c != candidate]

    def modules(chosen: list[int]) -> list[nn.Module]:
        base = [tuple(range(s.takes)) for s in network.slots]
        return network.modules_of((*base[:index], tuple(sorted(chosen)), *base[index + 1 :]))

    without = {id(m) for m in modules(others[: slot.takes])}
    return list({id(m): m for m in modules([candidate, *others[: slot.takes - 1]]) if id(m) not in without}.values())


Inputs = tuple[tuple[tuple[int, ...], torch.memory_format], ...]


@torch.no_grad()
def inputs_of_modules(network: Network, device: torch.device, batch: int) -> dict[str, Inputs]:
    """For every module that some child runs, by name, its inputs' shapes and memory layouts: convolutions differ by
    both.
    """
    twin, seen = copy.deepcopy(network).to(device, memory_format=torch.channels_last).eval(), {}

    for name, module in twin.named_modules():

        def note(_: nn.Module, inputs: tuple, name: str = name) -> None:
            tensors = [x for x in inputs if isinstance(x, Tensor)]
            seen.setdefault(name, tuple((tuple(x.shape), _layout(x)) for x in tensors))

        module.register_forward_pre_hook(note)
    images = torch.zeros((batch, *network.image), dtype=torch.uint8, device=device)
    for shift in range(max((len(slot.candidates) for slot in network.slots), default=1)):
        turn = [tuple(sorted((shift + k) % len(slot.candidates) for k in range(slot.takes))) for slot in network.slots]
        twin(images, Child(tuple(turn)))
    return seen


def _layout(x: Tensor) -> torch.memory_format:
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def hardware(device: torch.device) -> str:
    """The name of what runs the children."""
    where = provenance.describe(device)
    return where["device"] if device.type == "cuda" else where["processor"]


# ---- the clock -----------------------------------------------------------------------------------


def time_child(network: Network, picks: Picks, device: torch.device, batch: int, threads: int) -> float:
    """Milliseconds of a forward pass of the child alone, as it is deployed: weights laid out as `Run.model()` has
    them.
    """
    with torch.random.fork_rng(devices=[]):  # its weights do not matter and must not shift the search's draws
        alone = build(**network.spec(picks))
    return time_model(alone.to(device, memory_format=torch.channels_last).eval(), network.image, device, batch, threads)


def time_model(model: nn.Module, image: tuple[int, ...], device: torch.device, batch: int, threads: int) -> float:
    """Milliseconds of a forward pass of a batch of uint8 images [batch, *image] that lie on the device."""
    images = torch.randint(0, 256, (batch, *image), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).to(
        device
    )
    with torch.no_grad(), _threads(threads):
        return _milliseconds(lambda: model(images), device)


def _time_module(module: nn.Module, inputs: Inputs, device: torch.device, threads: int) -> float:
    alone, g = (
        copy.deepcopy(module).to(device, memory_format=torch.channels_last).eval(),
        torch.Generator().manual_seed(0),
    )
    tensors = [torch.randn(shape, generator=g).to(device).contiguous(memory_format=layout) for shape, layout in inputs]
    with torch.no_grad(), _threads(threads):
        return _milliseconds(lambda: alone(*tensors), device)


def _milliseconds(call: Callable[[], Any], device: torch.device) -> float:
    for _ in range(WARM_UP):
        call()
    once = _gpu_ms if device.type == "cuda" else _cpu_ms
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    medians: list[float] = []
    while len(medians) < GROUPS or (len(medians) < MOST_GROUPS and sorted(medians)[1] > AGREE * min(medians)):
        taken: list[float] = []
        until = time.perf_counter() + LONGEST
        while len(taken) < PASSES and (len(taken) < 3 or time.perf_counter() < until):
            taken.append(once(call, device))
        medians.append(statistics.median(taken))
    return min(medians)


def _cpu_ms(call: Callable[[], Any], device: torch.device) -> float:
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    began = clock()
    call()
    return 1e3 * (clock() - began)


def _gpu_ms(call: Callable[[], Any], device: torch.device) -> float:
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
    return start.elapsed_time(end)


@contextlib.contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if n != before:
        torch.set_num_threads(n)
    try:
        yield
    finally:
        if n != before:
            torch.set_num_threads(before)
