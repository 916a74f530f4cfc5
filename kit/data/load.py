"""From a data set's name or path to disjoint train, val and test sets."""

import contextlib
import functools
import os
import zlib
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from kit.data.image import alone, decoded, fit, listed
from kit.data.sets import SPLIT_SEED, ImageSets, described, stratified_split
from kit.data.sources import DATASETS, Source, read_csv, read_folder
from kit.errors import KitError, summary, unknown
from kit.search.progress import say


def load_dataset(
    name: str | os.PathLike,
    root: str | os.PathLike | None = None,
    image_size: int | None = None,
    on_bad_image: str = "error",
    photo_size: int = 32,
) -> ImageSets:
    """Disjoint train, val and test sets as uint8 images; the same on every call and machine.

    name: one of `datasets()`, or the path of a folder of class folders, of a folder with train/, [val/,] test/ of class
    folders, or of a .csv, .tsv or .txt file with the columns path, label and, if wanted, split. root: where data sets
    are kept, else $KIT_DATA, else ~/.cache/kit/data. image_size: resize the shorter side and crop the centre to so many
    pixels; by default images keep their size, or take the data set's own or, where files differ, photo_size, which is
    said. on_bad_image: "error" stops at images that cannot be used and names them, "skip" leaves them out. Decoded
    files of more than $KIT_RESIDENT_GB (10^9 bytes; 4) are streamed. Raises KitError: unknown name, path that cannot be
    read, data that is neither here nor to be downloaded, a loader that returns no `Source`."""
    if on_bad_image not in ("error", "skip"):
        raise unknown("on_bad_image", on_bad_image, ("error", "skip"))
    folder = Path(root or os.environ.get("KIT_DATA") or "~/.cache/kit/data").expanduser()
    name = os.fspath(name)
    about = DATASETS[name].settings if name in DATASETS else {"size": None, "flip": True}
    size = about["size"] if image_size is None else image_size
    if size is not None and (isinstance(size, bool) or not hasattr(size, "__index__") or size < 1):
        raise KitError(f"image_size must be a positive integer (pixels) or None, got {size!r}")
    size = size and int(size)  # one of numpy's, too
    if name in DATASETS:
        source = _called(name, folder, size)
    else:
        path = Path(name).expanduser()
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
            mend = f"{bring.format(root=root)}; or set root= or KIT_DATA to a folder that has it"
            why = f"is not in {root} and was not fetched ({summary(error)})"
            raise KitError(f"dataset {name!r} {why}: {mend}") from error
        if isinstance(error, KitError):
            part = "(images uint8 [N, C, H, W], labels int64 [N]) of torch, or a list of (image file, label)"
            need = f"it must return kit.data.Source(classes, train, val, test), each part {part}"
            raise KitError(f"the loader of dataset {name!r}: {error}; {need}") from error
        raise


def _decoded(source: Source, cache: Path, image_size: int | None, photo_size: int, skip: bool) -> Source:
    """The same source with images in place of files, without those that cannot be read."""
    listing = [(part, file.absolute(), label) for part, pairs in source.parts.items() for file, label in pairs]
    table, name = pd.DataFrame(listing, columns=["part", "file", "label"]), cache.name
    _check_counts(source, table)
    folder = functools.cache(os.path.realpath)  # by whatever links an image is reached
    real = lambda file: Path(os.path.realpath(file)) if file.is_symlink() else Path(folder(file.parent), file.name)
    places = table["file"].map(real)
    if places.duplicated().any():
        twice = " and ".join(map(str, table["file"][places == places[places.duplicated()].iloc[0]]))
        raise KitError(f"{name}: {twice} is listed twice: an image belongs to one part and one class; remove one")
    files, parts = list(table["file"]), {}
    size, place = image_size or f"own{photo_size}", zlib.crc32(os.fsencode(os.path.commonpath(files)))
    images, bad = decoded(files, cache.with_name(f"{name}-{size}-{place:08x}"), image_size, photo_size)
    if bad:
        reasons = listed({files[row]: why for row, why in bad.items()})
        said = f"{name}: {len(bad)} of {len(files)} images are unreadable: {reasons}"
        if not skip:
            raise KitError(f"{said}: replace or remove them, or pass on_bad_image='skip' to leave them out")
        say(f"{said}: left out; bad.json in {cache.parent} lists them")
        _check_counts(source, table := table.drop(index=list(bad)))
    try:
        stream = images.pool.nbytes > 1e9 * float(os.environ.get("KIT_RESIDENT_GB") or 4)
    except ValueError as error:
        raise KitError(f"KIT_RESIDENT_GB must be a number of gigabytes from 0, which streams all: {error}") from None
    for part, held in table.groupby("part"):
        rows = torch.tensor(held.index.to_numpy())
        parts[part] = images.take(rows) if stream else images[rows], torch.tensor(held["label"].to_numpy())
    return replace(source, **parts)


def _check_counts(source: Source, table: pd.DataFrame) -> None:
    """Every class must reach every part, those that are to be cut from train as well."""
    needed, counts = 4 - len(source.parts), table.groupby("part")["label"].value_counts()
    for label, name in enumerate(source.classes):
        if (n := counts.get(("train", label), 0)) < needed:
            have = f"class {name!r} has {n} readable image(s) in train, at least {needed} are needed"
            raise KitError(f"{have} to split it: add images, or remove the class, or give train, val and test")
    if empty := set(source.parts) - set(table["part"]):
        raise KitError(f"{' and '.join(empty)} has no readable image: give at least one, or leave the part out")


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
        parts = {part: replace(own, images=fit(own.images, image_size, image_size)) for part, own in parts.items()}
    return ImageSets(**parts, classes=source.classes, name=name, flip=flip, split=split)
