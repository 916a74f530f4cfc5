"""Files that survive a kill: written under a temporary name, flushed to the disk, renamed. Nothing is ever
unpickled.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from kit.errors import KitError

TEMPORARY = ".tmp"
MAKE_ROOM = "what was saved before is unharmed; make room on the disk, or check the folder's rights, and run the same again: it goes on from there"


def atomically(path: Path, write: Callable[[Path], None], mend: str = MAKE_ROOM) -> None:
    """Have `write` fill a temporary file, then make it `path`: a reader sees the old file or the whole new one.

    Raises KitError, which ends in `mend`, where it cannot be written (a full disk, no rights); what was there before is
    unharmed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, safetensors.SafetensorError) as error:
        raise KitError(f"{path} cannot be written ({_said(error)}): {mend}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def tidy(folder: Path) -> None:
    """Remove what killed processes had begun to write. Only for the holder of the folder's lock."""
    for path in folder.rglob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, default=str) + "\n"
    atomically(path, lambda p: p.write_text(text))


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise KitError(f"{path} cannot be read: {error}") from None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds names and values. Raises KitError for any other."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise KitError(f"{path} was altered: it holds {value!r:.60} instead of names and values")
    return value


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)

    atomically(path, write)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (
        Exception
    ) as error:  # an altered archive raises what zipfile, zlib, struct and numpy's header parser can think of
        raise KitError(
            f"{path} holds no arrays that can be read ({_said(error)}): put it aside to go on without it"
        ) from None


def read_frame(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A parquet file's table with these columns. Raises KitError when the file is cut short, altered or something
    else.
    """
    try:
        return pd.read_parquet(path)[list(columns)]
    except Exception as error:  # Arrow has an error class for each way in which a file can be broken
        raise KitError(
            f"{path} holds no table with {', '.join(columns)} ({_said(error)}): put it aside to go on without it"
        ) from None


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Named tensors as plain safetensors, for any program that reads the format."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    atomically(path, lambda p: safetensors.torch.save_file(plain, p))


def read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise KitError(f"{path} holds no tensors that can be read: {type(error).__name__}: {error}") from None


def write_state(path: Path, state: dict[str, Any]) -> None:
    """A tree of dicts, lists, tensors, numbers, strings and None as one safetensors file; the tree is JSON in its
    metadata.

    Tensors of one type are laid end to end: a supernet has thousands of small ones, and a file entry each would take
    longer to write
    than their bytes. A checksum over the tree and the tensors tells an altered file from a whole one.
    """
    groups: dict[str, list[Tensor]] = {}
    offsets: dict[str, int] = {}

    def take(value: Any) -> Any:
        if isinstance(value, Tensor):
            kind = str(value.dtype).removeprefix("torch.")
            at = offsets.get(kind, 0)
            offsets[kind] = at + value.numel()
            groups.setdefault(kind, []).append(value.detach().reshape(-1))
            return {"tensor": [kind, at, *value.shape]}
        if isinstance(value, dict):
            return {"dict": {str(k): take(v) for k, v in value.items()}}
        if isinstance(value, (list, tuple)):
            return {"list": [take(v) for v in value]}
        if value is None or isinstance(value, (bool, int, float, str)):
            return {"value": value}
        raise TypeError(f"a state holds tensors, numbers, strings, lists and dicts, not {type(value).__name__}")

    tree = json.dumps(take(state))
    flat = {kind: torch.cat([t.cpu() for t in tensors]) for kind, tensors in groups.items()}
    metadata = {"tree": tree, "sha256": _checksum(tree, flat)}
    atomically(path, lambda p: safetensors.torch.save_file(flat, p, metadata=metadata))


def _checksum(tree: str, flat: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(tree.encode())
    for kind in sorted(flat):
        digest.update(kind.encode())
        digest.update(flat[kind].contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def read_state(path: Path) -> dict[str, Any]:
    """What `write_state` wrote, on the CPU. Raises KitError when the file is cut short, altered or something else."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            flat = {kind: file.get_tensor(kind) for kind in file.keys()}
        if _checksum(metadata["tree"], flat) != metadata["sha256"]:
            raise ValueError("its checksum does not fit: it was altered")
        return _rebuild(json.loads(metadata["tree"]), flat)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RuntimeError,
        safetensors.SafetensorError,
    ) as error:
        raise KitError(f"{path} is not a checkpoint that can be read ({type(error).__name__}: {error})") from None


def _rebuild(node: dict[str, Any], flat: dict[str, Tensor]) -> Any:
    ((kind, value),) = node.items()
    if kind == "tensor":
        dtype, at, *shape = value
        return flat[dtype][at : at + math.prod(shape)].view(shape).clone()
    if kind == "dict":
        return {k: _rebuild(v, flat) for k, v in value.items()}
    if kind == "list":
        return [_rebuild(v, flat) for v in value]
    return value


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """One process at a time works on a run directory; the lock goes with the process, also when it is killed. Raises
    KitError where another
    one has it, and where the directory cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KitError(
            f"{folder} cannot be made ({_said(error)}): choose a folder for out that you may write to"
        ) from None
    with open(folder / ".lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise KitError(
                f"{folder} is in use by process {file.read().strip() or '?'}: wait for it, or stop it first"
            ) from None
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield


def put_aside(folder: Path) -> None:
    """Rename a run directory that is there; nothing is deleted. Raises KitError while a process works in it."""
    if not folder.exists():
        return
    with exclusive(folder):
        n = 1
        while (aside := folder.with_name(f"{folder.name}.old{n}")).exists():
            n += 1
        shutil.move(folder, aside)
