"""The files of a run directory: one writer, the readers, and the lock.

Tensors are safetensors, arrays npz without pickles, and the rest is JSON: reading never runs code."""

import contextlib
import fcntl
import hashlib
import io
import itertools
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from kit.errors import KitError, summary

TEMPORARY = ".tmp"
TENSOR = "<tensor>"  # in the JSON of a checkpoint: [dtype, first element, *shape]
PATIENCE = 0.2  # seconds, for the moment in which `in_use` holds the lock in another process
MAKE_ROOM = "what was saved before is unharmed; make room, or check the folder's rights, and run the same again"


def atomically(path: Path, write: Callable[[Path], Any], mend: str = MAKE_ROOM) -> None:
    """Let `write` fill a temporary file, flush it to the disk and rename it to `path`: a reader sees the old file or
    the whole new one. Raises KitError, which ends in `mend`, where it cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise KitError(f"{path} cannot be written ({summary(error)}): {mend}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def tidy(folder: Path) -> None:
    """Remove the temporary files of killed processes. Only for the holder of the folder's lock."""
    for path in folder.rglob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def reading(path: Path, problem: str) -> Iterator[None]:
    """Turn whatever a reader raises into a KitError that names the file: altered files raise all kinds of errors."""
    try:
        yield
    except Exception as error:
        raise KitError(f"{path} {problem} ({summary(error)}): it was altered or cut short") from None


def write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, default=str) + "\n"
    atomically(path, lambda p: p.write_text(text))


def read_json(path: Path, missing: Any = None) -> dict[str, Any]:
    """The JSON object in a file; `missing`, if given, where there is no file. Raises KitError for anything else."""
    if missing is not None and not path.is_file():
        return missing
    with reading(path, "cannot be read"):
        value = json.loads(path.read_text())
        if not isinstance(value, dict):
            raise ValueError(f"it holds {value!r:.60} instead of names and values")
        return value


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    content = io.BytesIO()  # a path would have to end in .npz
    np.savez_compressed(content, **arrays)
    atomically(path, lambda p: p.write_bytes(content.getvalue()))


def read_arrays(path: Path, missing: Any = None) -> dict[str, np.ndarray]:
    """What `write_arrays` wrote. Raises KitError for anything else, pickled objects included."""
    if missing is not None and not path.is_file():
        return missing
    with reading(path, "holds no arrays that can be read"), open(path, "rb") as file:
        return dict(np.load(file, allow_pickle=False))


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Named tensors as a safetensors file, which any program that knows the format can read."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    content = safetensors.torch.save(plain, metadata)  # save_file leaves a file that only its owner may read
    atomically(path, lambda p: p.write_bytes(content))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU. Raises KitError for anything else."""
    with reading(path, "holds no tensors that can be read"):
        return safetensors.torch.load_file(path)


def read_metadata(path: Path) -> dict[str, str]:
    """The strings stored beside the tensors of a safetensors file."""
    with safetensors.safe_open(path, framework="pt") as file:
        return file.metadata()


def write_state(path: Path, state: dict[str, Any]) -> None:
    """A tree of dicts, lists, tensors, numbers, strings and None as one safetensors file.

    The tree is JSON in the file's metadata. Tensors of one dtype are laid end to end: an entry for each of a
    supernet's thousands would take longer than their bytes."""
    parts: dict[str, list[Tensor]] = {}
    sizes: Counter[str] = Counter()

    def place(value: Any) -> dict[str, list]:
        if not isinstance(value, Tensor):
            raise TypeError(f"a state holds tensors, numbers, strings, lists and dicts, not {type(value).__name__}")
        dtype = str(value.dtype)
        parts.setdefault(dtype, []).append(value.detach().cpu().reshape(-1))
        start, sizes[dtype] = sizes[dtype], sizes[dtype] + value.numel()
        return {TENSOR: [dtype, start, *value.shape]}

    tree = json.dumps(state, default=place)
    flat = {dtype: torch.cat(tensors) for dtype, tensors in parts.items()}
    write_tensors(path, flat, {"tree": tree, "sha256": _digest(tree, flat)})


def read_state(path: Path) -> dict[str, Any]:
    """What `write_state` wrote, on the CPU. Raises KitError for a file that was altered, cut short or never one."""
    with reading(path, "is not a checkpoint that can be read"):
        metadata, flat = read_metadata(path), safetensors.torch.load_file(path)
        if metadata["sha256"] != _digest(metadata["tree"], flat):
            raise ValueError("its checksum is another")

        def placed(node: dict[str, Any]) -> Any:
            if TENSOR not in node:
                return node
            dtype, start, *shape = node[TENSOR]
            return flat[dtype][start : start + math.prod(shape)].view(shape).clone()

        return json.loads(metadata["tree"], object_hook=placed)


def _digest(tree: str, flat: dict[str, Tensor]) -> str:
    return hashlib.sha256(tree.encode() + safetensors.torch.save(flat)).hexdigest()


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which ends with the process, also when that is killed.

    Raises KitError where another process holds it, and where the folder or a lock cannot be made."""
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file, end = held.enter_context(open(folder / ".lock", "a+")), time.monotonic() + PATIENCE
            while not _locked(file, fcntl.LOCK_EX):
                if time.monotonic() > end:
                    file.seek(0)
                    raise KitError(f"{folder} is in use by process {file.read() or '?'}: wait for it, or stop it first")
                time.sleep(0.02)
        except OSError as error:
            mend = "choose another folder for out, or mount this one's with locks (Lustre: -o flock; NFS: not nolock)"
            raise KitError(f"{folder} cannot be made and locked ({summary(error)}): {mend}") from None
        file.truncate(0)
        print(os.getpid(), end="", file=file, flush=True)
        yield


def in_use(folder: Path) -> bool:
    """Whether a process holds the folder's lock."""
    with contextlib.suppress(OSError), open(folder / ".lock") as file:
        return not _locked(file, fcntl.LOCK_SH)
    return False


def _locked(file: IO, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


def put_aside(folder: Path) -> None:
    """Rename a run directory that is there to <name>.old1, .old2, …. Raises KitError while a process works in it."""
    if folder.exists():
        with exclusive(folder):
            names = (folder.with_name(f"{folder.name}.old{n}") for n in itertools.count(1))
            folder.rename(next(name for name in names if not name.exists()))
