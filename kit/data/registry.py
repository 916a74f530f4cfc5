"""Data sets by name. A new one is a loader of a few lines and a call of `register`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kit.data.folder import read_folder
from kit.data.sets import ImageSets
from kit.data.source import Source, to_sets
from kit.errors import KitError, unknown

Loader = Callable[[Path, "int | None"], Source]


@dataclass(frozen=True)
class _Entry:
    loader: Loader
    flip: bool
    description: str


_REGISTRY: dict[str, _Entry] = {}


def register(name: str, loader: Loader, flip: bool = True, description: str = "", replace: bool = False) -> None:
    """Make `name` known to `load_dataset`.

    loader(root, image_size) returns a Source; it may use image_size to decode at that size or ignore it, the images
    are fitted afterwards. flip: a horizontal flip keeps the label. Raises KitError if the name is taken
    (replace=True takes it over) or is not made of a-z, 0-9 and _ (it becomes part of a directory's name).
    """
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise KitError(f"dataset name {name!r} must be made of a-z, 0-9 and _")
    if name in _REGISTRY and not replace:
        raise KitError(f"dataset {name!r} is registered already: choose another name or pass replace=True")
    _REGISTRY[name] = _Entry(loader, flip, description)


def datasets() -> list[str]:
    """The names that load_dataset accepts, besides a folder's path."""
    return sorted(_REGISTRY)


def describe(name: str) -> str:
    """One line about a registered data set. Raises KitError if the name is unknown."""
    if name not in _REGISTRY:
        raise unknown("dataset", name, datasets())
    return _REGISTRY[name].description


def data_root(root: str | os.PathLike | None = None) -> Path:
    """Where data sets are kept: `root`, else the environment's KIT_DATA, else ~/.cache/kit/data."""
    return Path(root or os.environ.get("KIT_DATA") or "~/.cache/kit/data").expanduser()


def load_dataset(name: str | os.PathLike, root: str | os.PathLike | None = None,
                 image_size: int | None = None) -> ImageSets:
    """Disjoint train, val and test sets as uint8 tensors on the CPU; the same on every call and machine.

    name: one of `datasets()`, or the path of a folder of class folders, or of a folder with train/, [val/,] test/
    of class folders. root: where data sets are kept, see `data_root`. image_size: resize the shorter side and crop
    the centre to this many pixels; by default images keep their size. A folder's images are taken to keep their
    label when flipped; `register` a loader that calls `read_folder` to say otherwise.
    Raises KitError: unknown name, folder that cannot be read, data that is neither here nor to be downloaded.
    """
    if image_size is not None and (type(image_size) is not int or image_size < 1):
        raise KitError(f"image_size must be a positive integer (pixels) or None, got {image_size!r}")
    name = os.fspath(name)
    if name in _REGISTRY:
        entry = _REGISTRY[name]
        return to_sets(entry.loader(data_root(root), image_size), name, entry.flip, image_size)
    path = Path(name).expanduser()
    looks_like_path = "/" in name or os.sep in name or name.startswith((".", "~"))
    if not name or not (looks_like_path or path.exists()):
        raise KitError(f"{unknown('dataset', name, datasets())}; or give the path of a folder of class folders")
    return to_sets(read_folder(path, image_size), path.resolve().name, flip=True, image_size=image_size)
