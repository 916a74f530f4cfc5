"""Latency of a space's children on the device that will run them: milliseconds of one forward pass of a batch of uint8
images in evaluation mode, float32.

A search adds up a table: every candidate is timed alone, once per operation and shape; the quickest and the slowest
child by that sum, timed as a whole, say what every child takes besides, and how much of the sum is left in a row."""

import copy
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from kit import files
from kit.errors import KitError
from kit.space import build
from kit.space.limits import cheapest
from kit.space.network import Network, Picks, alone

SPREAD, SECONDS = 0.1, 0.3  # a time is taken until its blocks' quartiles are so close, or for so long


class LatencyTable(BaseModel):
    hardware: str
    batch: int
    threads: int
    fixed_ms: float  # what every child takes
    candidates_ms: list[list[float]]  # [slot][candidate], what each adds

    def predict(self, picks: Picks) -> float:
        return self.fixed_ms + sum(self.candidates_ms[slot][c] for slot, chosen in enumerate(picks) for c in chosen)

    def __str__(self) -> str:
        return f"batch {self.batch}, {self.hardware}, {self.threads} thread(s)"


def table(network: Network, device: torch.device | str, batch: int = 1, path: Path | None = None) -> LatencyTable:
    """The table in `path` if there is one, else measured now and written there: a table measured again has other
    numbers, and a resumed search would decide otherwise. Raises KitError as `stored` does."""
    if path is not None and (found := stored(path)):
        return found
    device = torch.device(device)
    rows = [np.array(row) for row in candidate_times(network, device, batch)]
    ends = [cheapest(network.slots, rows, sign) for sign in (1, -1)]
    quick, slow = (float(sum(row[list(chosen)].sum() for row, chosen in zip(rows, picks))) for picks in ends)
    low, high = (time_child(network, picks, device, batch) for picks in ends)
    scale = max(0.0, high - low) / (slow - quick) if slow > quick else 0.0
    where = {"hardware": hardware(device), "batch": batch, "threads": torch.get_num_threads()}
    fixed, candidates = max(0.0, low - scale * quick), [(scale * row).tolist() for row in rows]
    made = LatencyTable(**where, fixed_ms=fixed, candidates_ms=candidates)
    if path is not None:
        files.write(path, made.model_dump_json(indent=2))
    return made


def stored(path: Path) -> LatencyTable | None:
    """The table in a file; None without a file. Raises KitError for a file that is no table."""
    try:
        return LatencyTable.model_validate_json(files.read(path)) if path.exists() else None
    except ValidationError:
        raise KitError(f"{path} is not a latency table: remove the file, and it is measured anew") from None


def candidate_times(network: Network, device: torch.device, batch: int) -> list[list[float]]:
    """Milliseconds, [slot][candidate], of the modules that run only when it is picked."""
    twin = copy.deepcopy(network).to(device, memory_format=torch.channels_last)
    slots, known = network.slots, {}
    fixed = set(twin.modules_of(((),) * len(slots)))
    own = lambda slot, candidate: set(twin.modules_of(alone(slots, slot, candidate))) - fixed
    modules = [[own(i, c) for c in range(len(slot.candidates))] for i, slot in enumerate(slots)]
    timed = set().union(*(each for row in modules for each in row))

    def time_alone(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> float:
        # a module's text names all its layers and their sizes
        key = (repr(module), *((x.shape, x.stride()) for x in inputs if isinstance(x, Tensor)))
        if module in timed and key not in known:
            known[key] = _milliseconds(lambda: module.forward(*inputs), device)
        return known.get(key, 0.0)

    ms = twin.measured(time_alone, batch)
    return [[sum(ms[module] for module in each) for each in row] for row in modules]


def time_child(network: Network, picks: Picks, device: torch.device, batch: int) -> float:
    """Of a child alone, as it is deployed: laid out as `Run.model()` has it."""
    with torch.random.fork_rng(devices=[]):  # its weights do not matter and must not shift the search's draws
        child = build(**network.spec(picks))
    return time_model(child.to(device, memory_format=torch.channels_last).eval(), network.image, device, batch)


def time_model(model: nn.Module, image: tuple[int, ...], device: torch.device, batch: int) -> float:
    """Of a batch of uint8 images [batch, *image] that lie on the device."""
    images = torch.zeros((batch, *image), dtype=torch.uint8, device=device)
    return _milliseconds(lambda: model(images), device)


def _milliseconds(call: Callable[[], Any], device: torch.device) -> float:
    """The smallest of several blocks of passes, since other processes only ever add time; one CPU thread by its own
    clock, which stands still while another process has the core."""
    from torch.utils.benchmark import Timer  # looks for compilers

    threads = torch.get_num_threads()
    clock = {"timer": time.thread_time} if device.type == "cpu" and threads == 1 else {}
    with torch.no_grad():
        timer = Timer("call()", globals={"call": call}, num_threads=threads, **clock)
        return 1e3 * min(timer.adaptive_autorange(SPREAD, max_run_time=SECONDS).times)


def hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")
