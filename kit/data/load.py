"""From a data set's name or path, by a loader, of a folder or a list of files, to disjoint train, val and test sets."""

import contextlib
import functools
import io
import operator
import os
import re
import unicodedata
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kit import files
from kit.data.image import EXTENSIONS, alone, decoded, fit, image_files, listed, say_left_out, visible
from kit.data.sets import SPLIT_SEED, ImageSet, ImageSets, described, stratified_split
from kit.errors import KitError, shown, summary, unknown, whole
from kit.registry import Registry
from kit.search.progress import say

Place = str | os.PathLike
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
    of (image file, label). For others the fractions of `train` are held out. classes: the name of each label; whole
    numbers become text. split: one sentence saying whose split this is, for reports. Raises KitError for what does not
    fit, and for names of classes that look alike or cannot be written."""

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
            raise KitError(f"classes must be a list of at least two names, got {shown(self.classes)}")
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
    number = isinstance(given, Integral) and abs(given) < 10**99  # of 5,000 digits it would have no text
    name = str(given) if number or isinstance(given, str) else ""
    if not _look(name) or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        raise KitError(f"a class is called {shown(given)}: must be text that UTF-8 can write, on one line; rename it")
    return unicodedata.normalize("NFC", name)


def _look(name: str) -> str:
    """The same for names that a reader takes for one. Single letters may be classes of their own."""
    shown = "".join(letter for letter in name if unicodedata.category(letter) != "Cf").strip()
    alike = unicodedata.normalize("NFKC", shown).translate(ALIKE).casefold()
    return shown if len(shown) == 1 else " ".join(alike.split())


def _checked(name: str, part: Any, classes: int) -> ImageSet | list[tuple[Path, int]]:
    if isinstance(part, (tuple, list)) and len(part) == 2 and any(hasattr(one, "shape") for one in part):
        part = ImageSet(*part)
        if part.images.shape[1] not in (1, 3):
            mend = "images.permute(0, 3, 1, 2) puts channels first, images[:, :3] is RGB of RGBA"
            raise KitError(f"{name} has images {list(part.images.shape)}: 1 or 3 channels are needed; {mend}")
    if isinstance(part, ImageSet):
        return part
    try:
        pairs = [(Path(file), operator.index(label)) for file, label in part]
    except (TypeError, ValueError):
        raise KitError(f"{name} is neither (images, labels) nor (image file, label) pairs: {described(part)}") from None
    if wrong := [pair for pair in pairs if not 0 <= pair[1] < classes]:
        raise KitError(f"{name} has {wrong[0][0]} with label {shown(wrong[0][1])}, allowed are 0 to {classes - 1}")
    return pairs


def datasets() -> list[str]:
    """The names that load_dataset accepts, besides a path."""
    return sorted(DATASETS)


def register(name: str, loader: Callable[..., Source], title="", flip=True, size: int | None = None, bring="") -> None:
    """Make `name` (a-z, 0-9, _) known to `load_dataset`. loader(root, image_size) returns a `Source`. title: how many
    images, what they show, licence, source; flip: a horizontal flip keeps the label; size: the image_size where none is
    given; bring: what to do where the data can be neither found nor fetched. Raises KitError if the name is taken."""
    if not (isinstance(name, str) and re.fullmatch(r"[a-z0-9_]+", name) and callable(loader)):
        raise KitError(f"dataset {shown(name)}: its name must be of a-z, 0-9 and _, its loader a function")
    DATASETS.register(name, title=title, flip=flip, size=size, bring=bring)(loader)


def read_folder(path: Place) -> Source:
    """The image files of a folder of class folders, or of train/, [val/,] test/ with class folders, undecoded. Classes
    are sorted by name, files by path. What is hidden is skipped; images beside the class folders, and other files, are
    left out and named. Raises KitError for a folder that cannot be listed, or splits that differ in classes."""
    folder = files.place(path)
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
    return [item for item in visible(folder) if item.suffix.lower() in EXTENSIONS and not item.is_dir()]


def read_csv(path: Place) -> Source:
    """The image files that a text file lists, in UTF-8 or UTF-16, separated by commas, semicolons, tabs or bars.
    Columns: path (from the file's folder, with / or \\), label (any text), if wanted split (train, val or test). Labels
    are sorted, by number if all are numbers. Raises KitError, naming the lines, for what is missing or unknown."""
    file = files.place(path)
    try:
        content = files.read(file.resolve())
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        before = 1 if re.match('"?sep=', text, re.IGNORECASE) else 0  # Excel's own first line
        header = "".join(text.splitlines()[before : before + 1])
        how = {"sep": max(",;\t|", key=header.count), "skiprows": before}
        if header.count(how["sep"]) > 100:
            raise ValueError("more than a hundred columns")
        how |= {"skip_blank_lines": False, "index_col": False, "dtype": str, "keep_default_na": False}
        rows = pd.read_csv(io.StringIO(text), **how).fillna("")
    except (OSError, ValueError) as error:  # pandas' ParserError and EmptyDataError are ValueErrors
        raise KitError(f"{file} cannot be read ({summary(error)}): {FORMAT}") from None
    rows = rows.rename(columns=lambda name: name.strip().casefold()).map(str.strip)
    rows = rows[(rows != "").any(axis=1)]
    if not {"path", "label"} <= set(rows) or not rows.columns.is_unique or rows.empty:
        raise KitError(f"{file} has {len(rows)} images and columns {', '.join(rows):.200}: {FORMAT}")
    images, names = rows["path"].map(file.parent.joinpath), rows["label"].str.normalize("NFC")
    images = images.where(images.map(os.path.isfile), rows["path"].str.replace("\\", "/").map(file.parent.joinpath))
    split = rows["split"].str.casefold().replace(SPLITS) if "split" in rows else pd.Series("train", rows.index)
    sound = (names != "") & split.isin(set(WORDS)) & images.map(os.path.isfile)
    if lines := [f"line {row + 2 + before} ({', '.join(rows.loc[row]):.200})" for row in rows.index[~sound]]:
        said = " ".join("; ".join(lines[:5]).splitlines())
        needed = "each needs a label, an image that is there, and train, val or test where there is a column split"
        raise KitError(f"{file}: {len(lines)} line(s) are no samples: {said}: {needed}")
    numbers = names.str.fullmatch("[0-9]+").all()
    by_number = lambda name: (len(digits := name.lstrip("0")), digits, name)  # int() takes 4,300 digits at most
    classes = sorted(set(names), key=by_number if numbers else None)
    labels = names.map(classes.index)
    parts = {part: list(zip(images[of], labels[of])) for part, of in split.groupby(split).groups.items()}
    split = f"the column split of {file.name}" if len(parts) > 1 else None
    return Source(classes, parts.pop("train", []), **parts, split=split)


def load_dataset(
    name: Place, root: Place | None = None, image_size: int | None = None, on_bad_image="error", photo_size=32
) -> ImageSets:
    """Disjoint train, val and test sets as uint8 images; the same on every call and machine.

    name: one of `datasets()`, or the path of a folder of class folders, of a folder with train/, [val/,] test/ of class
    folders, or of a .csv, .tsv or .txt file with the columns path, label and, if wanted, split. root: where data sets
    are kept, else $KIT_DATA, else ~/.cache/kit/data. image_size: so many pixels (a whole number), by resizing the
    shorter side and cropping the centre; None: images keep their size, or take the data set's own or, where files
    differ, photo_size, which is said. on_bad_image: "error" stops at images that cannot be used and names them, "skip"
    leaves them out. Decoded files of more than $KIT_RESIDENT_GB (4) are streamed. Raises KitError, also of a loader."""
    if on_bad_image not in ("error", "skip"):
        raise unknown("on_bad_image", on_bad_image, ("error", "skip"))
    folder = files.place(root or os.environ.get("KIT_DATA") or "~/.cache/kit/data")
    name = name if isinstance(name, str) else str(files.place(name))
    about = DATASETS[name].settings if name in DATASETS else {"size": None, "flip": True}
    size = about["size"] if image_size is None else image_size
    size = size if size is None else whole("image_size", size, 1, 2**16)
    photo_size = whole("photo_size", photo_size, 1, 2**16)
    if name in DATASETS:
        source = _called(name, folder, size)
    else:
        path = files.place(name)
        if not name or not (os.sep in name or name.startswith((".", "~")) or os.path.exists(path)):
            known = unknown("dataset", name, sorted(DATASETS))
            raise KitError(f"{known}; or give the path of a folder of class folders, or of a CSV file of path,label")
        is_list = path.suffix.lower() in (".csv", ".tsv", ".txt") and not path.is_dir()
        source = read_csv(path) if is_list else read_folder(path)
        name = path.resolve().stem if is_list else path.resolve().name
    if isinstance(source.train, list):
        source = _decoded(source, folder / "cache" / name[:40], size, photo_size, on_bad_image == "skip")
    return to_sets(source, name, about["flip"], size)


def _called(name: str, root: Path, image_size: int | None) -> Source:
    loader, bring = DATASETS[name].make, DATASETS[name].settings["bring"]
    try:
        with alone(root / f".{name}") if bring else contextlib.nullcontext():
            source = loader(root, image_size)
        if not isinstance(source, Source):
            raise KitError(f"got {described(source)}")
        return source
    except Exception as error:  # urllib, requests, tarfile, rarfile, scipy, torchvision have each their own
        if bring:
            why = f"is not in {root} and was not fetched ({summary(error)}): {bring.format(root=root)}"
            raise KitError(f"dataset {name!r} {why}; or set root= or KIT_DATA to a folder that has it") from error
        if not isinstance(error, KitError):
            raise
        part = "(images uint8 [N, C, H, W], labels int64 [N]) of torch, or a list of (image file, label)"
        need = f"it must return kit.data.Source(classes, train, val, test), each part {part}"
        raise KitError(f"the loader of dataset {name!r}: {error}; {need}") from error


def _decoded(source: Source, cache: Path, image_size: int | None, photo_size: int, skip: bool) -> Source:
    listing = [(part, file.absolute(), label) for part, pairs in source.parts.items() for file, label in pairs]
    table, name = pd.DataFrame(listing, columns=["part", "file", "label"]), cache.name
    _check_counts(source, table)
    folder = functools.cache(os.path.realpath)  # by whatever links an image is reached
    real = lambda file: Path(os.path.realpath(file)) if file.is_symlink() else Path(folder(file.parent), file.name)
    places = table["file"].map(real)
    if places.duplicated().any():
        twice = " and ".join(map(str, table["file"][places == places[places.duplicated()].iloc[0]]))
        raise KitError(f"{name}: {twice} is listed twice: an image belongs to one part and one class")
    paths, parts = list(table["file"]), {}
    size, place = image_size or f"own{photo_size}", zlib.crc32(os.fsencode(os.path.commonpath(paths)))
    images, bad = decoded(paths, cache.with_name(f"{name}-{size}-{place:08x}"), image_size, photo_size)
    if bad:
        reasons = listed({paths[row]: why for row, why in bad.items()})
        said = f"{name}: {len(bad)} of {len(paths)} images are unreadable: {reasons}"
        if not skip:
            raise KitError(f"{said}: replace or remove them, or pass on_bad_image='skip' to leave them out")
        say(f"{said}: left out; bad.json in {cache.parent} lists them")
        _check_counts(source, table := table.drop(index=list(bad)))
    stream = images.pool.nbytes > files.gigabytes("KIT_RESIDENT_GB")
    for part, held in table.groupby("part"):
        rows = torch.tensor(held.index.to_numpy())
        parts[part] = images.take(rows) if stream else images[rows], torch.tensor(held["label"].to_numpy())
    return replace(source, **parts)


def _check_counts(source: Source, table: pd.DataFrame) -> None:
    """Every class must reach every part, also those that are to be cut from train."""
    needed, counts = 4 - len(source.parts), table.groupby("part")["label"].value_counts()
    for label, name in enumerate(source.classes):
        if (n := counts.get(("train", label), 0)) < needed:
            raise KitError(f"class {name!r} has {n} readable image(s) in train, at least {needed} are needed to split")
    if empty := set(source.parts) - set(table["part"]):
        raise KitError(f"{' and '.join(sorted(empty))} has no readable image: give at least one, or leave the part out")


def to_sets(source: Source, name: str, flip: bool, image_size: int | None = None) -> ImageSets:
    """Resize, and hold out what the source does not. Raises KitError where the parts break ImageSets' contract."""
    parts, pool, left, seed = source.parts, source.train, 1.0, f"(split seed {SPLIT_SEED})"
    rows = {"train": torch.arange(len(pool))}
    for part, share in (("test", source.test_fraction), ("val", source.val_fraction)):
        if part not in parts:
            kept, held = stratified_split(pool.labels.cpu()[rows["train"]], share / left)
            rows |= {"train": rows["train"][kept], part: rows["train"][held]}
            left -= share
    if len(rows) > 1:
        parts |= {part: pool.take(own) for part, own in rows.items()}
    if source.test is None:
        cut = f"stratified {left:.0%} train, {source.val_fraction:.0%} val, {source.test_fraction:.0%} test {seed}"
        split = (f"{source.split}; " if source.split else "") + f"the source has no split: {cut}"
    elif source.val is None:
        held = f"val is a stratified {source.val_fraction:.0%} of its training images {seed}"
        split = f"{source.split or 'test as the source gives it'}; {held}"
    else:
        split = source.split or "train, val and test as the source gives them"
    if image_size is not None:
        n = sum(len(own) * own.images.shape[1] for own in parts.values() if isinstance(own.images, Tensor))
        if (gb := n * image_size**2 / 1e9) > files.gigabytes("KIT_RESIDENT_GB") / 1e9:
            raise KitError(f"image_size={image_size}: {name} would take {gb:,.0f} GB, KIT_RESIDENT_GB=… allows more")
        parts = {part: replace(own, images=fit(own.images, image_size, image_size)) for part, own in parts.items()}
    return ImageSets(**parts, classes=source.classes, name=name, flip=flip, split=split)
