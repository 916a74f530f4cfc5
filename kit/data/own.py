"""Images of one's own: a loader that is registered under a name, a folder of class folders, or a CSV file."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from kit.data.image import EXTENSIONS
from kit.data.sets import Source
from kit.errors import KitError, unknown

LAYOUT = "expected FOLDER/CLASS/IMAGE, or FOLDER/train/CLASS/IMAGE and FOLDER/test/CLASS/IMAGE"
FORMAT = "expected UTF-8 text: a first line path,label or path,label,split, then one image a line"
SPLITS = {"training": "train", "testing": "test", "valid": "val", "validation": "val"}
Loader = Callable[[Path, "int | None"], Source]


@dataclass(frozen=True)
class Entry:
    """A data set that has a name: how it is loaded, and what a user wants to know of it before using it.

    loader: see `register`; title: what its images show; images: how many, by published part; pixels: their size as
    published; flip: a horizontal flip keeps the label; size: the image_size where none is given; bring: what to do
    where it can be neither found nor fetched.
    """

    loader: Loader
    title: str = ""
    classes: int = 0
    images: tuple[int, ...] | str = ()
    pixels: str = ""
    split: str = ""
    licence: str = ""
    source: str = ""
    flip: bool = True
    size: int | None = None
    bring: str = ""

    @property
    def count(self) -> str:
        return self.images if isinstance(self.images, str) else " + ".join(f"{n:,}" for n in self.images)


REGISTRY: dict[str, Entry] = {}


class DatasetNames(list):
    """Names of data sets, printed as a table of what is known about them."""

    def __str__(self) -> str:
        return table()

    _repr_markdown_ = __str__


def datasets() -> list[str]:
    """The names that load_dataset accepts, besides a path; they print as a table."""
    return DatasetNames(sorted(REGISTRY))


def register(name: str, loader: Loader, replace: bool = False, **about) -> None:
    """Make `name` known to `load_dataset`.

    loader(root, image_size) returns a `Source`: image files with labels, which are decoded in parallel and cached, or
    images as tensors (fitted to image_size afterwards). about: facts as in `Entry`. Raises KitError if the name is
    taken (replace=True takes it over) or is not made of a-z, 0-9 and _ (it becomes part of a directory's name).

    A set whose files are called like cat_17.png:

        import kit

        def pets(root, image_size=None):
            classes = ("cat", "dog")
            files = sorted((root / "pets").glob("*.png"))
            return kit.data.Source(classes, [(file, classes.index(file.stem.split("_")[0])) for file in files])

        kit.data.register("pets", pets, title="our pets", size=32)
        sets = kit.load_dataset("pets", root=root)
    """
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise KitError(f"dataset name {name!r} must be made of a-z, 0-9 and _")
    if strange := [fact for fact in about if fact not in Entry.__dataclass_fields__]:
        raise unknown("fact about a data set", strange[0], list(Entry.__dataclass_fields__)[1:])
    again = name in REGISTRY and getattr(REGISTRY[name].loader, "__qualname__", "") == loader.__qualname__
    if name in REGISTRY and not replace and not again:  # the cell of a notebook may run twice
        raise KitError(f"dataset {name!r} is registered already: choose another name or pass replace=True")
    REGISTRY[name] = Entry(loader, **about)


def describe(name: str) -> str:
    """One line about a registered data set. Raises KitError if the name is unknown."""
    if name not in REGISTRY:
        raise unknown("dataset", name, datasets())
    a = REGISTRY[name]
    size = f"{a.pixels} pixels" + (f", read at {a.size}" if a.size else "")
    facts = f"classes: {a.classes}; {size}; split: {a.split}; licence: {a.licence}; source: {a.source}"
    return f"{a.count} {a.title}; {facts}" if a.licence else a.title


def table() -> str:
    """The data sets whose licence is known, as a Markdown table."""
    columns = "name images what classes pixels read·at split licence source".split()
    rows = [
        (f"`{name}`", a.count, a.title, a.classes, a.pixels, a.size or "as is", a.split, a.licence, a.source)
        for name, a in sorted(REGISTRY.items())
        if a.licence
    ]
    head, *lines = (f"| {' | '.join(map(str, row))} |" for row in [columns, *rows])
    return "\n".join([head.replace("·", " "), "|---" * len(columns) + "|", *lines, ""])


def read_folder(path: str | os.PathLike) -> Source:
    """The image files of a folder of class folders, or of train/, [val/,] test/ with class folders, undecoded.

    Classes and files are sorted by name; names that start with a dot are skipped. Raises KitError, naming the file or
    folder and what to do, if the folder is missing or cannot be listed, has images outside class folders, a class
    without images, fewer than two classes, or splits that differ in classes.
    """
    folder = Path(path).expanduser()
    if not os.path.isdir(folder):  # Path.is_dir raises on names that are too long
        raise KitError(f"{folder} is no folder (from {Path.cwd()}): check the path, unpack an archive; {LAYOUT}")
    try:
        found = {split: class_files(part) for split, part in _splits(folder).items()}
    except OSError as error:
        raise KitError(f"{folder} cannot be listed: {error}: check its rights") from None
    classes = tuple(found["train"])
    for split, part in found.items():
        if differ := sorted(set(classes) ^ set(part)):
            raise KitError(f"{folder}: train/ and {split}/ need the same class folders, they differ in {differ[0]!r}")
    if len(classes) < 2:
        raise KitError(f"{folder} has only one class, {classes[0]!r}: at least two class folders are needed; {LAYOUT}")
    label = {name: i for i, name in enumerate(classes)}
    return Source(
        classes, **{s: [(file, label[name]) for name in part for file in part[name]] for s, part in found.items()}
    )


def class_files(folder: Path) -> dict[str, list[Path]]:
    """Class name → its image files, both sorted. Raises KitError where images lie outside class folders, or a class
    has none."""
    loose = [item for item in _visible(folder) if _is_image(item)]
    if loose:
        raise KitError(f"{loose[0]} and {len(loose) - 1} more: move each into a folder named after its class; {LAYOUT}")
    found = {item.name: [f for f in _visible(item) if _is_image(f)] for item in _visible(folder) if item.is_dir()}
    if not found:
        raise KitError(f"{folder} has no class folders: {LAYOUT}")
    if empty := [name for name, files in found.items() if not files]:
        raise KitError(f"class folder {folder / empty[0]} has no images ({', '.join(EXTENSIONS)}): add or remove it")
    return found


def _splits(folder: Path) -> dict[str, Path]:
    """The folders that hold class folders: train, val and test if there are such, else the folder itself as train."""
    folders = {item.name: item for item in _visible(folder) if item.is_dir()}
    for other, name in SPLITS.items():
        if other in folders and name not in folders:
            folders[name] = folders.pop(other)
    # A class may be called train (CIFAR-100 has one): it is a split only if it holds folders.
    if "train" not in folders or not any(item.is_dir() for item in _visible(folders["train"])):
        return {"train": folder}
    splits = {name: folders.pop(name) for name in ("train", "val", "test") if name in folders}
    if folders:
        raise KitError(f"{folder}: beside train/, kit reads val/ and test/ only: move {', '.join(folders)} elsewhere")
    if "test" not in splits:
        raise KitError(f"{folder} has train/ but no test/: add it, or load {splits['train']} alone and kit splits it")
    return splits


def _visible(folder: Path) -> list[Path]:
    return sorted(item for item in folder.iterdir() if not item.name.startswith((".", "__MACOSX")))


def _is_image(item: Path) -> bool:
    return item.suffix.lower() in EXTENSIONS and item.is_file()


def read_csv(path: str | os.PathLike) -> Source:
    """The image files that a CSV file lists, UTF-8, separated by commas, semicolons or tabs.

    Columns, in any order: path (relative ones start at the CSV's folder), label (any text), and if wanted split (train,
    val or test; test may come without val, not the reverse). Further columns are ignored. Labels are sorted: by number
    if all are numbers, else as text. Raises KitError, naming the lines, for a missing column or value, an unknown
    split, and an image that is not there or is listed twice.
    """
    file = Path(path).expanduser()
    try:
        with open(file, encoding="utf-8-sig") as content:
            separator = max(",;\t", key=content.readline().count)
        rows = pd.read_csv(file, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig").fillna("")
    except (OSError, ValueError) as error:  # pandas' ParserError and EmptyDataError are ValueErrors
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise KitError(f"{file} cannot be read ({reason}): {FORMAT}") from None
    rows = rows.rename(columns=lambda name: name.strip().casefold()).apply(lambda column: column.str.strip())
    columns = [name for name in ("path", "label", "split") if name in rows]
    # Lines with more cells than the first make pandas take their first cells as the index.
    if columns[:2] != ["path", "label"] or rows.empty or not isinstance(rows.index, pd.RangeIndex):
        raise KitError(f"{file} has {len(rows)} images and columns {', '.join(rows)}: {FORMAT}")
    split = rows["split"].str.casefold().replace(SPLITS) if "split" in rows else pd.Series("train", rows.index)
    images = [file.parent / image for image in rows["path"]]
    faults = {f"has no {name}": rows[name] == "" for name in columns}
    faults["has a split that is not train, val or test"] = ~split.isin(["train", "val", "test"])
    faults["lists an image that is not there"] = [not os.path.isfile(image) for image in images]
    faults["lists an image again"] = pd.Series([os.path.realpath(image) for image in images]).duplicated()
    for what, at in faults.items():
        if lines := [f"line {row + 2} ({rows['path'][row]})" for row, bad in enumerate(at) if bad]:
            raise KitError(f"{file}: {what} in {len(lines)} line(s): {'; '.join(lines[:5])}: mend or remove them")
    numbers = rows["label"].str.fullmatch("[0-9]+").all()
    classes = tuple(sorted(set(rows["label"]), key=(lambda name: (int(name), name)) if numbers else None))
    if len(classes) < 2 or "train" not in set(split) or ("val" in set(split) and "test" not in set(split)):
        has = f"{len(classes)} label(s) and the splits {', '.join(sorted(set(split)))}"
        raise KitError(f"{file} has {has}: two labels or more are needed, and train, with test if there is val")
    labels = rows["label"].map({name: i for i, name in enumerate(classes)})
    parts = {part: [(images[row], labels[row]) for row in rows.index[split == part]] for part in split.unique()}
    return Source(classes, **parts, split=f"the column split of {file.name}" if len(parts) > 1 else None)
