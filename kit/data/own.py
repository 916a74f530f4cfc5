"""Images of one's own: a loader that is registered under a name, a folder of class folders, or a CSV file."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from torchvision.datasets.folder import find_classes, make_dataset

from kit.data.image import EXTENSIONS
from kit.data.sets import Source
from kit.errors import KitError, unknown

LAYOUT = "expected FOLDER/CLASS/IMAGE, or FOLDER/train/CLASS/IMAGE and FOLDER/test/CLASS/IMAGE"
FORMAT = "expected UTF-8 text: a first line path,label or path,label,split, then one image a line"


@dataclass(frozen=True)
class Entry:
    """A data set that has a name. loader: see `register`; title: how many images, what they show, licence and source;
    flip: a horizontal flip keeps the label; size: the image_size where none is given; bring: what to do where it can be
    neither found nor fetched."""

    loader: Callable[[Path, int | None], Source]
    title: str = ""
    flip: bool = True
    size: int | None = None
    bring: str = ""


REGISTRY: dict[str, Entry] = {}


def datasets() -> list[str]:
    """The names that load_dataset accepts, besides a path."""
    return sorted(REGISTRY)


def register(name: str, loader: Callable[[Path, int | None], Source], **about) -> None:
    """Make `name` known to `load_dataset`.

    loader(root, image_size) returns a `Source`: image files with labels, which are decoded in parallel and cached, or
    images as tensors (fitted to image_size afterwards). about: facts as in `Entry`. Raises KitError if the name is
    taken or is not made of a-z, 0-9 and _ (it becomes part of a directory's name).
    """
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise KitError(f"dataset name {name!r} must be made of a-z, 0-9 and _")
    there = REGISTRY[name].loader if name in REGISTRY else loader
    # the cell of a notebook may run twice: the same function again
    if any(getattr(there, mark, "") != getattr(loader, mark, "") for mark in ("__module__", "__qualname__")):
        raise KitError(f"dataset {name!r} is registered already: choose another name")
    REGISTRY[name] = Entry(loader, **about)


def describe(name: str) -> str:
    """One line about a registered data set. Raises KitError if the name is unknown."""
    if name not in REGISTRY:
        raise unknown("dataset", name, datasets())
    return REGISTRY[name].title


def read_folder(path: str | os.PathLike) -> Source:
    """The image files of a folder of class folders, or of train/, [val/,] test/ with class folders, undecoded.

    Classes and files are sorted by name; names that start with a dot are skipped. Raises KitError, naming the folder
    and what to do, if it is missing or cannot be listed, has a class without images, or splits that differ in classes.
    """
    folder = Path(path).expanduser()
    try:
        parts = {part: class_folders(where) for part, where in _split_folders(folder).items()}
    except OSError as error:
        raise KitError(f"{folder} (from {Path.cwd()}) cannot be read: {error}: check it; {LAYOUT}") from None
    classes = parts["train"][0]
    for part, (names, _) in parts.items():
        if differ := sorted(set(classes) ^ set(names)):
            raise KitError(f"{folder}: train/ and {part}/ need the same class folders, they differ in {differ[0]!r}")
    return Source(tuple(classes), **{part: files for part, (_, files) in parts.items()})


def class_folders(folder: Path) -> tuple[list[str], list[tuple[Path, int]]]:
    """The names of the class folders in it, sorted, and their image files with the number of their class."""
    classes = list(folders(folder)) or find_classes(folder)[0]  # which raises where there is none
    found = make_dataset(folder, {name: label for label, name in enumerate(classes)}, EXTENSIONS)
    return classes, [(Path(file), label) for file, label in found if "/." not in file.removeprefix(str(folder))]


def folders(folder: Path) -> dict[str, Path]:
    """The folders in it by name, sorted, without hidden ones."""
    found = (item for item in sorted(folder.iterdir()) if item.is_dir())
    return {item.name: item for item in found if not item.name.startswith((".", "__MACOSX"))}


def _split_folders(folder: Path) -> dict[str, Path]:
    """train, val and test if there are such, else the folder itself as train."""
    found = folders(folder)
    # A class may be called train (CIFAR-100 has one): it is a split only if it holds folders.
    if "train" not in found or not folders(found["train"]):
        return {"train": folder}
    if "test" not in found or set(found) - {"train", "val", "test"}:
        raise KitError(f"{folder} has {', '.join(found)}: beside train/ there must be test/, and nothing else but val/")
    return found


def read_csv(path: str | os.PathLike) -> Source:
    """The image files that a CSV file lists, UTF-8, separated by commas.

    Columns, in any order: path (relative ones start at the CSV's folder), label (any text), and if wanted split (train,
    val or test; test may come without val, not the reverse). Further columns are ignored. Labels are sorted: by number
    if all are numbers, else as text. Raises KitError, naming the lines, for a missing column or value, an unknown
    split, and an image that is not there.
    """
    file = Path(path).expanduser()
    try:
        rows = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False).fillna("")
    except (OSError, ValueError) as error:  # pandas' ParserError and EmptyDataError are ValueErrors
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise KitError(f"{file} cannot be read ({reason}): {FORMAT}") from None
    if not {"path", "label"} <= set(rows) or rows.empty:
        raise KitError(f"{file} has {len(rows)} images and columns {', '.join(rows)}: {FORMAT}")
    images = [file.parent / image for image in rows["path"]]
    split = rows["split"] if "split" in rows else pd.Series("train", rows.index)
    there = pd.Series([os.path.isfile(image) for image in images])
    sound = (rows["label"] != "") & split.isin(["train", "val", "test"]) & there
    if lines := [f"line {row + 2} ({', '.join(rows.loc[row])})" for row in rows.index[~sound]]:
        needed = "each needs a label, an image that is there, and train, val or test where there is a column split"
        raise KitError(f"{file}: {len(lines)} line(s) are no samples: {'; '.join(lines[:5])}: {needed}")
    numbers = rows["label"].str.fullmatch("[0-9]+").all()
    classes = sorted(set(rows["label"]), key=(lambda name: (int(name), name)) if numbers else None)
    labels = rows["label"].map(classes.index)
    parts = {part: [(images[row], labels[row]) for row in rows.index[split == part]] for part in split.unique()}
    if "train" not in parts:
        raise KitError(f"{file} has the splits {', '.join(parts)}: train is needed, and test if there is val")
    return Source(tuple(classes), **parts, split=f"the column split of {file.name}" if len(parts) > 1 else None)
