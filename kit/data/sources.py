"""Where images come from: a loader that is registered under a name, a folder of class folders, a list of files."""

import io
import operator
import os
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from kit.data.image import image_files, is_image, say_left_out, visible
from kit.data.sets import ImageSet, described
from kit.errors import KitError, summary
from kit.registry import Registry

Part = ImageSet | tuple[Tensor, Tensor] | list[tuple[Path, int]]
DATASETS = Registry("dataset")
ALIKE = str.maketrans("АВЕКМНОРСТХаеорсухΑΒΕΖΗΙΚΜΝΟΡΤΥΧο", "ABEKMHOPCTXaeopcyxABEZHIKMNOPTYXo")  # of other scripts
LAYOUT = "expected FOLDER/CLASS/IMAGE, or FOLDER/train/CLASS/IMAGE and FOLDER/test/CLASS/IMAGE"
FORMAT = "expected UTF-8 text: a first line path,label or path,label,split, then one image a line"
WORDS = {"train": "train training", "val": "val valid validation", "test": "test testing eval"}
SPLITS = {word: part for part, words in WORDS.items() for word in words.split()}


@dataclass(eq=False)
class Source:
    """What a loader returns: the parts that are published, each (images uint8 [N, C, H, W], labels int64 [N]) or a list
    of (image file, label).

    classes: the name of each label; whole numbers become text. The fractions of `train` are held out for parts that are
    not given. split: one sentence saying whose split this is, for reports. Raises KitError for what does not fit, and
    for names of classes that look alike or cannot be written."""

    classes: tuple[str, ...]
    train: Part
    val: Part | None = None
    test: Part | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    split: str | None = None

    def __post_init__(self):
        if self.val is not None and self.test is None:
            raise KitError("a source with a val part needs a test part too: give val as test, or join it to train")
        if not isinstance(self.classes, (list, tuple, np.ndarray)) or len(self.classes) < 2:
            raise KitError(f"classes must be a list of at least two names, got {self.classes!r:.80}")
        self.classes, looks = tuple(map(_class_name, self.classes)), {}
        for name in self.classes:
            if (look := _look(name)) in looks:
                raise KitError(f"two classes look alike, {looks[look]!r} and {name!r}: give each a name of its own")
            looks[look] = name
        for name, part in self.parts.items():
            setattr(self, name, _checked(name, part, len(self.classes)))
        if len({type(part) for part in self.parts.values()}) > 1:
            raise KitError("some parts are tensors and some are files")

    @property
    def parts(self) -> dict[str, Part]:
        """Those that are given, each an `ImageSet` or a list of files with their labels."""
        return {name: part for name in WORDS if (part := getattr(self, name)) is not None}


def _class_name(given: Any) -> str:
    name = str(given) if isinstance(given, (str, Integral)) else ""
    if not _look(name) or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        raise KitError(f"a class is called {given!r}: a name must be text that UTF-8 can write, on one line; rename it")
    return unicodedata.normalize("NFC", name)


def _look(name: str) -> str:
    """The same for names that a reader takes for one. Single letters may be classes of their own."""
    shown = "".join(letter for letter in name if unicodedata.category(letter) != "Cf").strip()
    alike = unicodedata.normalize("NFKC", shown).translate(ALIKE).casefold()
    return shown if len(shown) == 1 else " ".join(alike.split())


def _checked(name: str, part: Any, classes: int) -> ImageSet | list[tuple[Path, int]]:
    if isinstance(part, ImageSet):
        return part
    if isinstance(part, (tuple, list)) and len(part) == 2 and any(hasattr(one, "shape") for one in part):
        part = ImageSet(*part)
        if part.images.shape[1] not in (1, 3):
            mend = "images.permute(0, 3, 1, 2) puts channels first, images[:, :3] is RGB of RGBA"
            raise KitError(f"{name} has images {list(part.images.shape)}: 1 or 3 channels are needed; {mend}")
        return part
    try:
        if not isinstance(part, (tuple, list)):
            raise TypeError(f"it is {described(part)}")
        pairs = [(Path(file), operator.index(label)) for file, label in part]
    except (TypeError, ValueError) as error:
        raise KitError(f"{name} is neither (images, labels) nor a list of (image file, label): {error}") from None
    if wrong := [pair for pair in pairs if not 0 <= pair[1] < classes]:
        raise KitError(f"{name} has {wrong[0][0]} with label {wrong[0][1]}, allowed are 0 to {classes - 1}")
    return pairs


def datasets() -> list[str]:
    """The names that load_dataset accepts, besides a path."""
    return sorted(DATASETS)


def register(name: str, loader: Callable[..., Source], title="", flip=True, size: int | None = None, bring="") -> None:
    """Make `name` known to `load_dataset`.

    loader(root, image_size) returns a `Source`. title: how many images, what they show, licence and source; flip: a
    horizontal flip keeps the label; size: the image_size where none is given; bring: what to do where the data can be
    neither found nor fetched. Raises KitError if the name is taken or is not made of a-z, 0-9 and _."""
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise KitError(f"dataset name {name!r} must be made of a-z, 0-9 and _")
    DATASETS.register(name, title=title, flip=flip, size=size, bring=bring)(loader)


def read_folder(path: str | os.PathLike) -> Source:
    """The image files of a folder of class folders, or of train/, [val/,] test/ with class folders, undecoded.

    Classes are sorted by name, files by path. Files below a class count as its own; what is hidden is skipped; images
    beside the class folders, and what is no image, are left out and named. Raises KitError for a folder that cannot be
    listed, or splits that differ in classes."""
    folder = Path(path).expanduser()
    try:
        found = folders(folder)
        parts = {SPLITS.get(name.casefold(), name): where for name, where in found.items()}
        # A class may be called train (CIFAR-100 has one): it is a split only if it holds folders.
        if "train" not in parts or not folders(parts["train"]):
            return Source(*class_folders(folder))
        if "test" not in parts or len(parts) < len(found) or set(parts) - set(WORDS):
            has = f"{folder} has {', '.join(found)}"
            raise KitError(f"{has}: beside train/ there must be test/, and nothing else but val/, each once")
        say_left_out(folder, _loose(folder))
        read = {part: class_folders(where) for part, where in parts.items()}
    except OSError as error:
        raise KitError(f"{folder} (from {Path.cwd()}) cannot be read: {error}: check it; {LAYOUT}") from None
    classes = read["train"][0]
    for part, (names, _) in read.items():
        if differ := sorted(set(classes) ^ set(names)):
            raise KitError(f"{folder}: train/ and {part}/ need the same class folders, they differ in {differ[0]!r}")
    return Source(classes, **{part: files for part, (_, files) in read.items()})


def class_folders(folder: Path) -> tuple[list[str], list[tuple[Path, int]]]:
    """The names of the class folders in it, sorted, and the image files below them with the number of their class."""
    found, left = {}, _loose(folder)
    for name, where in folders(folder).items():
        images, others = image_files(where)
        found.setdefault(unicodedata.normalize("NFC", name), []).extend(images)  # a Mac writes é as two letters
        left += others
    if not found:
        raise KitError(f"{folder} has no class folders: {LAYOUT}")
    say_left_out(folder, left)
    classes = sorted(found)
    return classes, [(file, label) for label, name in enumerate(classes) for file in found[name]]


def folders(folder: Path) -> dict[str, Path]:
    """The folders in it by name, sorted, without hidden ones."""
    return {item.name: item for item in visible(folder) if item.is_dir()}


def _loose(folder: Path) -> list[Path]:
    return [item for item in visible(folder) if is_image(item) and not item.is_dir()]


def read_csv(path: str | os.PathLike) -> Source:
    """The image files that a text file lists, in UTF-8 or UTF-16, separated by commas, semicolons, tabs or bars.

    Columns, in any order: path (from the file's folder, with / or \\), label (any text), if wanted split (train, val or
    test). Labels are sorted: by number if all are numbers, else as text. Raises KitError, naming the lines, for a
    missing column or value, an unknown split, and an image that is not there."""
    file = Path(path).expanduser()
    try:
        content = file.read_bytes()
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        before = 1 if re.match('"?sep=', text, re.IGNORECASE) else 0  # Excel's own first line
        how = {"sep": max(",;\t|", key="".join(text.splitlines()[before : before + 1]).count), "skiprows": before}
        how |= {"skip_blank_lines": False, "index_col": False, "dtype": str, "keep_default_na": False}
        rows = pd.read_csv(io.StringIO(text), **how).fillna("")
    except (OSError, ValueError) as error:  # pandas' ParserError and EmptyDataError are ValueErrors
        raise KitError(f"{file} cannot be read ({summary(error)}): {FORMAT}") from None
    rows = rows.rename(columns=lambda name: name.strip().casefold()).map(str.strip)
    rows = rows[(rows != "").any(axis=1)]
    if not {"path", "label"} <= set(rows) or not rows.columns.is_unique or rows.empty:
        raise KitError(f"{file} has {len(rows)} images and columns {', '.join(rows)}: {FORMAT}")

    images, names = rows["path"].map(file.parent.joinpath), rows["label"].str.normalize("NFC")
    images = images.where(images.map(os.path.isfile), rows["path"].str.replace("\\", "/").map(file.parent.joinpath))
    split = rows["split"].str.casefold().replace(SPLITS) if "split" in rows else pd.Series("train", rows.index)
    sound = (names != "") & split.isin(set(WORDS)) & images.map(os.path.isfile)
    if lines := [f"line {row + 2 + before} ({', '.join(rows.loc[row])})" for row in rows.index[~sound]]:
        needed = "each needs a label, an image that is there, and train, val or test where there is a column split"
        raise KitError(f"{file}: {len(lines)} line(s) are no samples: {'; '.join(lines[:5])}: {needed}")
    numbers = names.str.fullmatch("[0-9]+").all()
    classes = sorted(set(names), key=(lambda name: (int(name), name)) if numbers else None)
    labels = names.map(classes.index)
    parts = {part: list(zip(images[of], labels[of])) for part, of in split.groupby(split).groups.items()}
    split = f"the column split of {file.name}" if len(parts) > 1 else None
    return Source(classes, parts.pop("train", []), **parts, split=split)
