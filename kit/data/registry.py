"""Data sets by name. A new one is a loader of a few lines and a call of `register`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from kit.data.folder import read_folder
from kit.data.listing import read_csv
from kit.data.sets import ImageSets
from kit.data.source import SPLIT_SEED, Files, Source, to_sets
from kit.errors import KitError, unknown

Loader = Callable[[Path, "int | None"], "Source | Files"]
ON_BAD_IMAGE = ("error", "skip")


@dataclass(frozen=True)
class About:
    """What a user wants to know of a data set before using it. images: how many, by published part; size: in pixels, as
    published.
    """

    what: str
    classes: int
    images: str
    size: str
    split: str
    licence: str
    source: str

    def sentence(self, default_size: int | None = None) -> str:
        size = f"{self.size} pixels" + (f", read at {default_size}" if default_size else "")
        return f"{self.images} {self.what}; classes: {self.classes}; {size}; split: {self.split}; licence: {self.licence}; source: {self.source}"


@dataclass(frozen=True)
class _Entry:
    loader: Loader
    flip: bool
    description: str
    default_size: int | None
    about: About | None


_REGISTRY: dict[str, _Entry] = {}


def register(
    name: str,
    loader: Loader,
    flip: bool = True,
    description: str = "",
    replace: bool = False,
    default_size: int | None = None,
    about: About | None = None,
) -> None:
    """Make `name` known to `load_dataset`.

    loader(root, image_size) returns Files (image files with labels: decoded in parallel and cached) or a Source (images
    that it
    decoded itself; it may use image_size or ignore it, they are fitted afterwards). flip: a horizontal flip keeps the
    label.
    default_size: the image_size where none is given, for photographs that differ in size. Raises KitError if the name
    is taken
    (replace=True takes it over) or is not made of a-z, 0-9 and _ (it becomes part of a directory's name).

    A set of one's own, whose files are called like cat_17.png:

        import kit

        def pets(root, image_size=None):
            classes = ("cat", "dog")
            files = sorted((root / "pets").glob("*.png"))
            return kit.data.Files(classes, [(file, classes.index(file.stem.split("_")[0])) for file in files])

        kit.data.register("pets", pets, description="our pets", default_size=32)
        sets = kit.load_dataset("pets", root=root)
    """
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise KitError(f"dataset name {name!r} must be made of a-z, 0-9 and _")
    if name in _REGISTRY and not replace:
        raise KitError(f"dataset {name!r} is registered already: choose another name or pass replace=True")
    _REGISTRY[name] = _Entry(loader, flip, description, default_size, about)


def datasets() -> list[str]:
    """The names that load_dataset accepts, besides a path."""
    return sorted(_REGISTRY)


def describe(name: str) -> str:
    """One line about a registered data set: what, how many, size, split, licence, source. Raises KitError if the name
    is unknown.
    """
    if name not in _REGISTRY:
        raise unknown("dataset", name, datasets())
    entry = _REGISTRY[name]
    return entry.about.sentence(entry.default_size) if entry.about else entry.description


def table() -> str:
    """The data sets that kit knows, as a Markdown table."""
    head = "| name | images | what | classes | pixels | read at | split | licence | source |"
    rows = [
        f"| `{name}` | {a.images} | {a.what} | {a.classes} | {a.size} | {entry.default_size or 'as is'} | {a.split} | {a.licence} | {a.source} |"
        for name, entry in sorted(_REGISTRY.items())
        if (a := entry.about)
    ]
    return "\n".join([head, "|---" * 9 + "|", *rows]) + "\n"


def data_root(root: str | os.PathLike | None = None) -> Path:
    """Where data sets are kept: `root`, else the environment's KIT_DATA, else ~/.cache/kit/data."""
    return Path(os.path.expanduser(root or os.environ.get("KIT_DATA") or "~/.cache/kit/data"))


def load_dataset(
    name: str | os.PathLike,
    root: str | os.PathLike | None = None,
    image_size: int | None = None,
    on_bad_image: str = "error",
) -> ImageSets:
    """Disjoint train, val and test sets as uint8 images; the same on every call and machine.

    name: one of `datasets()`, or the path of a folder of class folders, of a folder with train/, [val/,] test/ of class
    folders,
    or of a CSV file with the columns path, label and, if wanted, split. root: where data sets are kept, see
    `data_root`.
    image_size: resize the shorter side and crop the centre to this many pixels; by default images keep their size, or
    take the
    data set's default_size. on_bad_image: "error" lists images that cannot be used, with the reasons, and stops; "skip"
    lists them
    and goes on without. One's own images are taken to keep their label when flipped; `register` a loader to say
    otherwise.
    Raises KitError: unknown name, path that cannot be read, data that is neither here nor to be downloaded.
    """
    if image_size is not None and (type(image_size) is not int or image_size < 1):
        raise KitError(f"image_size must be a positive integer (pixels) or None, got {image_size!r}")
    if on_bad_image not in ON_BAD_IMAGE:
        raise unknown("on_bad_image", on_bad_image, ON_BAD_IMAGE)
    name, folder = os.fspath(name), data_root(root)
    if name in _REGISTRY:
        entry = _REGISTRY[name]
        image_size = image_size or entry.default_size
        return _to_sets(entry.loader(folder, image_size), name, folder, entry.flip, image_size, on_bad_image)
    path = Path(os.path.expanduser(name))
    looks_like_path = "/" in name or os.sep in name or name.startswith((".", "~"))
    if not name or not (looks_like_path or os.path.exists(path)):
        raise KitError(
            f"{unknown('dataset', name, datasets())}; or give the path of a folder of class folders, or of a CSV file of path,label"
        )
    if path.suffix.lower() == ".csv" and not path.is_dir():
        return _to_sets(read_csv(path), path.resolve().stem, folder, True, image_size, on_bad_image)
    return _to_sets(read_folder(path, image_size), path.resolve().name, folder, True, image_size, on_bad_image)


def _to_sets(
    found: Source | Files, name: str, root: Path, flip: bool, image_size: int | None, on_bad_image: str
) -> ImageSets:
    if isinstance(found, Source):
        return to_sets(found, name, flip, image_size)
    from kit.data import decode

    source = decode.to_source(found, name=name, root=root, image_size=image_size, on_bad_image=on_bad_image)
    sets = to_sets(source, name, flip, image_size)
    return sets if found.split is None else replace(sets, split=_split(found, sets.split))


def _split(files: Files, held_out: str) -> str:
    """Whose split it is, and what kit held out of it."""
    if files.test is None:
        return f"{files.split}; {held_out}"
    if files.val is None:
        return f"{files.split}; val is a stratified {files.val_fraction:.0%} of its training images (split seed {SPLIT_SEED})"
    return files.split
