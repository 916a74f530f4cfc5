"""Where a result comes from: code, versions, hardware; and which device a run uses."""

from __future__ import annotations

import os
import platform
import re
import resource
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from kit.errors import KitError
from kit.space.latency import hardware

PACKAGES = ("torch", "torchvision", "numpy", "pandas", "pydantic", "safetensors", "scikit-learn")


def describe(device: torch.device) -> dict[str, Any]:
    """Commit, versions and hardware, as plain values for JSON."""
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
    git = ["git", "-C", str(root)]
    try:
        head, changes = (
            subprocess.run([*git, *arguments], capture_output=True, text=True, check=True, timeout=10).stdout.strip()
            for arguments in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--", "kit"])
        )
        return head + ("+" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return None


def peak_memory_mb(device: torch.device) -> float:
    """Of this process: allocated on the GPU, resident on the CPU (interpreter and libraries included)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def pick_device(name: str | torch.device) -> torch.device:
    """auto: the GPU where there is one. Raises KitError for other names, and for a GPU that is not there."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", str(name)):
        raise KitError(f"device={str(name)!r} is not auto, cpu, cuda or cuda:N")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise KitError(f"device={str(name)!r}: this machine has {count} CUDA device(s); use device='auto' or 'cpu'")
    return device
