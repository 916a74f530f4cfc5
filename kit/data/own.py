"""Images of one's own: a loader that is registered under a name, a folder of class folders, or a CSV file."""

import io
import os
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from kit.data.image import ENDINGS, image_files, is_image, say_left_out, visible
from kit.data.source import Source
from kit.errors import KitError, unknown

LAYOUT = "expected FOLDER/CLASS/IMAGE, or FOLDER/train/CLASS/IMAGE and FOLDER/test/CLASS/IMAGE"
FORMAT = "expected UTF-8 text: a first line path,label or path,label,split, then one image a line"
COLUMNS = ("path", "label", "split")
WORDS = {"train": "train training", "val": "val valid validation", "test": "test testing eval"}
SPLITS = {word: part for part, words in WORDS.items() for word in words.split()}


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
    if not callable(loader):
        raise KitError(f"the loader of dataset {name!r} must be a function of root and image_size, got {loader!r}")
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

    Classes are sorted by name, files by path; names that start with a dot are skipped. Files below a class count as
    its own; images beside the class folders, and what is no image, are left out and named. Raises KitError, naming the
    folder and what to do, if it is missing or cannot be listed, has a class without images, or splits that differ in
    classes.
    """
    folder = Path(path).expanduser()
    try:
        places = _split_folders(folder)
        parts = {part: class_folders(where) for part, where in places.items()}
        if folder not in places.values():
            say_left_out(folder, _loose(folder))
    except OSError as error:
        raise KitError(f"{folder} (from {Path.cwd()}) cannot be read: {error}: check it; {LAYOUT}") from None
    classes = parts["train"][0]
    for part, (names, _) in parts.items():
        if differ := sorted(set(classes) ^ set(names)):
            raise KitError(f"{folder}: train/ and {part}/ need the same class folders, they differ in {differ[0]!r}")
    return Source(tuple(classes), **{part: files for part, (_, files) in parts.items()})


def class_folders(folder: Path) -> tuple[list[str], list[tuple[Path, int]]]:
    """The names of the class folders in it, sorted, and the image files below them with the number of their class."""
    found: dict[str, list[Path]] = {}
    left = _loose(folder)
    for name, where in folders(folder).items():
        images, others = image_files(where)
        found.setdefault(unicodedata.normalize("NFC", name), []).extend(images)  # a Mac writes é as two letters
        left += others
    if empty := [name for name, images in found.items() if not images]:
        held = f"; it holds {', '.join(map(str, left[:3]))}" if left else ""
        raise KitError(f"class folder {folder / empty[0]} has no image file ({ENDINGS}): add some or remove it{held}")
    if not found:
        raise KitError(f"{folder} has no class folders: {LAYOUT}")
    say_left_out(folder, left)
    classes = sorted(found)
    return classes, [(file, label) for label, name in enumerate(classes) for file in found[name]]


def folders(folder: Path) -> dict[str, Path]:
    """The folders in it by name, sorted, without hidden ones."""
    return {item.name: item for item in sorted(folder.iterdir()) if visible(item.name) and item.is_dir()}


def _loose(folder: Path) -> list[Path]:
    """Images that lie in the folder itself."""
    return [item for item in sorted(folder.iterdir()) if visible(item.name) and is_image(item) and not item.is_dir()]


def _split_folders(folder: Path) -> dict[str, Path]:
    """train, val and test if there are such, in these or other usual words, else the folder itself as train."""
    found = folders(folder)
    parts = {SPLITS.get(name.casefold(), name): where for name, where in found.items()}
    # A class may be called train (CIFAR-100 has one): it is a split only if it holds folders.
    if "train" not in parts or not folders(parts["train"]):
        return {"train": folder}
    if "test" not in parts or len(parts) < len(found) or set(parts) - set(SPLITS.values()):
        has = f"{folder} has {', '.join(found)}"
        raise KitError(f"{has}: beside train/ there must be test/, and nothing else but val/, each once")
    return parts


def read_csv(path: str | os.PathLike) -> Source:
    """The image files that a text file lists, in UTF-8 or UTF-16, separated by commas, semicolons, tabs or bars.

    Columns, in any order: path (from the file's folder, with / or \\), label (any text), if wanted split (train, val or
    test; test may come without val, not the reverse). Further columns are ignored. Labels are sorted: by number if
    all are numbers, else as text. Raises KitError, naming the lines, for a missing column or value, an unknown split,
    and an image that is not there.
    """
    file = Path(path).expanduser()
    try:
        content = file.read_bytes()
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        before = 1 if re.match('"?sep=', text, re.IGNORECASE) else 0  # Excel's own first line
        head = (*text.splitlines()[before : before + 1], "")[0]
        columns = lambda mark: sum(name.strip(' "').casefold() in COLUMNS for name in head.split(mark))
        how = {"sep": max(",;\t|", key=columns), "skiprows": before, "skip_blank_lines": False, "index_col": False}
        rows = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, **how).fillna("")
    except (OSError, ValueError) as error:  # pandas' ParserError and EmptyDataError are ValueErrors
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise KitError(f"{file} cannot be read ({reason}): {FORMAT}") from None
    rows = rows.rename(columns=lambda name: name.strip().casefold()).map(str.strip)
    rows = rows[(rows != "").any(axis=1)]
    known = [name for name in rows if name in COLUMNS]
    if sorted(known)[:2] != ["label", "path"] or len(known) > len(set(known)) or rows.empty:
        raise KitError(f"{file} has {len(rows)} images and columns {', '.join(rows)}: {FORMAT}")
    images = rows["path"].map(lambda name: _listed_image(file.parent, name))
    split = rows["split"].str.casefold().replace(SPLITS) if "split" in rows else pd.Series("train", rows.index)
    sound = (rows["label"] != "") & split.isin(set(SPLITS.values())) & images.map(os.path.isfile)
    if lines := [f"line {row + 2 + before} ({', '.join(rows.loc[row])})" for row in rows.index[~sound]]:
        needed = "each needs a label, an image that is there, and train, val or test where there is a column split"
        raise KitError(f"{file}: {len(lines)} line(s) are no samples: {'; '.join(lines[:5])}: {needed}")
    names = rows["label"].str.normalize("NFC")
    numbers = names.str.fullmatch("[0-9]+").all()
    classes = sorted(set(names), key=(lambda name: (int(name), name)) if numbers else None)
    labels = names.map(classes.index)
    parts = {part: [(images[row], labels[row]) for row in rows.index[split == part]] for part in split.unique()}
    if "train" not in parts:
        raise KitError(f"{file} has the splits {', '.join(parts)}: train is needed, and test if there is val")
    return Source(tuple(classes), **parts, split=f"the column split of {file.name}" if len(parts) > 1 else None)


def _listed_image(folder: Path, name: str) -> Path:
    there = folder / name
    return there if os.path.isfile(there) else folder / name.replace("\\", "/")
