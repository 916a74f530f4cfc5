"""Where a result comes from: code, versions, hardware; and which device a run uses."""

import os
import platform
import re
import resource
import subprocess
import threading
from importlib import metadata
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from kit.errors import KitError, shown
from kit.space.latency import hardware

TICK, STOPPED = 0.5, 5.0  # seconds; a process that does nothing for so long was stopped
PACKAGES = ("torch", "torchvision", "numpy", "pandas", "pydantic", "safetensors", "scikit-learn")


def describe(device: torch.device) -> dict[str, Any]:
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "processor": hardware(torch.device("cpu")),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": hardware(device) if device.type == "cuda" else "cpu",
    }


def commit() -> str | None:
    """The checkout's commit, marked "+" where files of kit differ from it; None outside a checkout of kit."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    git = lambda *asked: subprocess.check_output(["git", "-C", root, *asked], text=True, stderr=subprocess.DEVNULL)
    try:
        changed = git("status", "--porcelain", "--", "kit").strip()
        return git("rev-parse", "--short=12", "HEAD").strip() + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


class Stopwatch:
    """Seconds in which this process could run: while it is stopped (SIGSTOP), or the machine is, none are counted."""

    def __init__(self, seconds: float = 0.0):
        self.seconds, self.last, self.over, self.turn = seconds, monotonic(), threading.Event(), threading.Lock()

    def tick(self) -> None:
        while not self.over.wait(TICK):
            self.read()

    def read(self) -> float:
        with self.turn:
            before, self.last = self.last, monotonic()
            self.seconds += self.last - before if self.last - before < STOPPED else 0.0
            return self.seconds


def peak_memory_mb(device: torch.device) -> float:
    """Of this process: allocated on the GPU, resident on the CPU (interpreter and libraries included)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def pick_device(name: str | torch.device) -> torch.device:
    """auto: the GPU where there is one. Raises KitError for other names, and for a GPU that is not there."""
    if not isinstance(name, (str, torch.device)) or not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", str(name)):
        raise KitError(f"device={shown(name)} is not auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count()
    device = torch.device(name if name != "auto" else "cuda" if count else "cpu")
    if device.type == "cuda" and (device.index or 0) >= count:
        raise KitError(f"device={str(name)!r}: this machine has {count} CUDA device(s); use device='auto' or 'cpu'")
    return device
