"""Files that survive a kill: written under a temporary name, flushed to the disk, renamed. Nothing is ever unpickled."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from kit.errors import KitError


def atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Have `write` fill a temporary file, then make it `path`: a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, default=str) + "\n"
    atomically(path, lambda p: p.write_text(text))


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise KitError(f"{path} cannot be read: {error}") from None


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)

    atomically(path, write)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def write_state(path: Path, state: dict[str, Any]) -> None:
    """A tree of dicts, lists, tensors, numbers, strings and None as one safetensors file; the tree's shape is in its metadata."""
    tensors: dict[str, Tensor] = {}
    skeleton = json.dumps(_take_tensors(state, "", tensors))
    atomically(path, lambda p: safetensors.torch.save_file(tensors, p, metadata={"tree": skeleton}))


def read_state(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    try:
        with safetensors.safe_open(path, framework="pt", device=str(device)) as file:
            skeleton = json.loads(file.metadata()["tree"])
            return _put_tensors(skeleton, file.get_tensor)
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise KitError(f"{path} is not a checkpoint that can be read: {type(error).__name__}: {error}") from None


def _take_tensors(value: Any, at: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        # a copy in the plain layout: safetensors refuses shared and strided memory
        tensors[at] = value.detach().cpu().contiguous().clone()
        return {"tensor": at}
    if isinstance(value, dict):
        return {"dict": {str(k): _take_tensors(v, f"{at}/{k}", tensors) for k, v in value.items()}}
    if isinstance(value, (list, tuple)):
        return {"list": [_take_tensors(v, f"{at}/{i}", tensors) for i, v in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise TypeError(f"state {at!r} holds a {type(value).__name__}: tensors, numbers, strings, lists and dicts are stored")


def _put_tensors(node: dict[str, Any], tensor: Callable[[str], Tensor]) -> Any:
    (kind, value), = node.items()
    if kind == "tensor":
        return tensor(value)
    if kind == "dict":
        return {k: _put_tensors(v, tensor) for k, v in value.items()}
    if kind == "list":
        return [_put_tensors(v, tensor) for v in value]
    return value


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """One process at a time works on a run directory; the lock goes with the process, also when it is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise KitError(f"{folder} is in use by process {file.read().strip() or '?'}: wait for it, or stop it first") from None
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield
