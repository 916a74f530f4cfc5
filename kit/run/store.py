"""The formats of a run directory: tensors are safetensors, arrays npz without pickles, and the rest is JSON. Reading
never runs code, and takes no more memory than KIT_MAX_GB."""

import hashlib
import io
import json
import math
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from kit import files

TEXT, UNPACKED = 0.005, 0.1  # of KIT_MAX_GB: what JSON may have, which takes twenty times as much; and arrays
TENSOR = "<tensor>"  # in the JSON of a checkpoint: [dtype, first element, *shape]


def write_json(path: Path, value: Any) -> None:
    files.write(path, json.dumps(value, indent=2, default=str) + "\n")


def read_json(path: Path, missing: Any = None) -> dict[str, Any]:
    """The JSON object in a file; `missing`, if given, where there is nothing. Raises KitError for anything else."""
    if missing is not None and not path.exists():
        return missing
    content = files.read(path, share=TEXT)
    with files.reading(path, "cannot be read"):
        value = json.loads(content)
        if not isinstance(value, dict):
            raise ValueError(f"it holds {value!r:.60} instead of names and values")
        return value


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    content = io.BytesIO()  # a path would have to end in .npz
    np.savez_compressed(content, **arrays)
    files.write(path, content.getvalue())


def read_arrays(path: Path, missing: Any = None) -> dict[str, np.ndarray]:
    """What `write_arrays` wrote. Raises KitError for anything else, pickled objects included."""
    if missing is not None and not path.exists():
        return missing
    file = io.BytesIO(files.read(path, share=UNPACKED))
    with files.reading(path, "holds no arrays that can be read"):
        files.check_size(sum(array.file_size for array in zipfile.ZipFile(file).filelist), UNPACKED)
        return dict(np.load(file, allow_pickle=False))


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Named tensors as a safetensors file, which any program that knows the format can read."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    files.write(path, safetensors.torch.save(plain, metadata))  # save_file's own way leaves its temporary files behind


def read_tensors(path: Path, problem="holds no tensors that can be read", share=1.0) -> tuple[dict[str, Tensor], dict]:
    """The tensors of a safetensors file, on the CPU, and the strings beside them. Raises KitError for anything else."""
    content = files.read(path, problem, share)
    with files.reading(path, problem):
        tensors, size = safetensors.torch.load(content), int.from_bytes(content[:8], "little")
        return tensors, json.loads(content[8 : 8 + size]).get("__metadata__", {})


def write_state(path: Path, state: dict[str, Any]) -> None:
    """A tree of dicts, lists, tensors, numbers, strings and None as one safetensors file, with the tree as JSON in its
    metadata. Tensors of one dtype lie end to end: an entry for each of a supernet's thousands would take long."""
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
    flat, metadata = read_tensors(path, problem := "is not a checkpoint that can be read")
    with files.reading(path, problem):
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
