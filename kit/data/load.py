"""From a data set's name or path to disjoint train, val and test sets."""

import functools
import operator
import os
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kit.data.cache import alone, decoded, listed
from kit.data.named import NAMED
from kit.data.own import REGISTRY, Entry, datasets, read_csv, read_folder
from kit.data.sets import ImageSets
from kit.data.source import CONTRACT, Source, checked, to_sets
from kit.errors import KitError, unknown
from kit.search.progress import say

REGISTRY.update(NAMED)


def data_root(root: str | os.PathLike | None = None) -> Path:
    """Where data sets are kept: `root`, else the environment's KIT_DATA, else ~/.cache/kit/data."""
    return Path(root or os.environ.get("KIT_DATA") or "~/.cache/kit/data").expanduser()


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
    are kept, see `data_root`. image_size: resize the shorter side and crop the centre to this many pixels; by default
    images keep their size, or take the one that the data set is read at, or, where files differ in size, photo_size;
    that is said. on_bad_image: "error" names images that cannot be used, with the reasons, and stops; "skip" goes on
    without them. Decoded files of more than $KIT_RESIDENT_GB (in 10^9 bytes, 4 if not set) are not held in memory but
    streamed. Raises KitError: unknown name, path that cannot be read, data that is neither here nor to be downloaded, a
    loader that returns no `Source`.
    """
    image_size, photo_size = _pixels("image_size", image_size), _pixels("photo_size", photo_size)
    if on_bad_image not in ("error", "skip"):
        raise unknown("on_bad_image", on_bad_image, ("error", "skip"))
    name, folder, flip = os.fspath(name), data_root(root), True
    if name in REGISTRY:
        entry = REGISTRY[name]
        image_size, flip = image_size or _pixels("size", entry.size), entry.flip
        source = (_fetched if entry.bring else _loaded)(name, entry, folder, image_size)
    else:
        path = Path(os.path.expanduser(name))
        if not name or not (os.sep in name or name.startswith((".", "~")) or os.path.exists(path)):
            known = unknown("dataset", name, datasets())
            raise KitError(f"{known}; or give the path of a folder of class folders, or of a CSV file of path,label")
        is_list = path.suffix.lower() in (".csv", ".tsv", ".txt") and not path.is_dir()
        source = checked(read_csv(path) if is_list else read_folder(path))
        name = path.resolve().stem if is_list else path.resolve().name
    if isinstance(source.train, list):
        source = _decoded(source, folder / "cache" / name[:40], (image_size, photo_size), on_bad_image == "skip")
    return to_sets(source, name, flip, image_size)


def _pixels(name: str, given: Any) -> int | None:
    """A whole number, also one of numpy's, or None."""
    if given is None or (hasattr(given, "__index__") and not isinstance(given, bool) and operator.index(given) > 0):
        return given and operator.index(given)
    raise KitError(f"{name} must be a positive integer (pixels) or None, got {given!r}")


def _loaded(name: str, entry: Entry, root: Path, image_size: int | None) -> Source:
    try:
        return checked(entry.loader(root, image_size))
    except KitError as error:
        raise KitError(f"the loader of dataset {name!r}: {error}; it must return {CONTRACT}") from error


def _fetched(name: str, entry: Entry, root: Path, image_size: int | None) -> Source:
    try:
        with alone(root / f".{name}"):
            return checked(entry.loader(root, image_size))
    except Exception as error:  # urllib, requests, tarfile, rarfile, scipy, torchvision have each their own
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        mend = f"{entry.bring.format(root=root)}; or set root= or KIT_DATA to a folder that has it"
        raise KitError(f"dataset {name!r} is not in {root} and was not fetched ({reason}): {mend}") from error


def _decoded(source: Source, cache: Path, size: tuple[int | None, int], skip: bool) -> Source:
    """The same source with images in place of files, without those that cannot be read. size: see `decoded`."""
    _check_counts(source)
    name, files = cache.name, [file.absolute() for part in source.parts.values() for file, _ in part]
    folder = functools.cache(os.path.realpath)  # by whatever links an image is reached
    places = [os.path.realpath(file) if file.is_symlink() else f"{folder(file.parent)}/{file.name}" for file in files]
    place, n = Counter(places).most_common(1)[0]
    if n > 1:
        twice = " and ".join(str(file) for file, there in zip(files, places) if there == place)
        raise KitError(f"{name}: {twice} is listed twice: an image belongs to one part and one class; remove one")
    place = zlib.crc32(os.fsencode(os.path.commonpath(files)))
    images, bad = decoded(files, cache.with_name(f"{name}-{size[0] or f'own{size[1]}'}-{place:08x}"), *size)
    if bad:
        said = f"{name}: {len(bad)} of {len(files)} images are unreadable"
        if not skip:
            mend = "replace or remove them, or pass on_bad_image='skip' to leave them out"
            raise KitError(f"{said}: {listed(bad, files)}: {mend}")
        say(f"{said} and left out; bad.json in {cache.parent} lists them: {listed(bad, files)}")
    parts, good, start = {}, {}, 0
    for part, pairs in source.parts.items():
        good[part] = [(row, label) for row, (_, label) in enumerate(pairs, start) if row not in bad]
        start += len(pairs)
    _check_counts(replace(source, **good))
    try:
        stream = images.pool.nbytes > 1e9 * float(os.environ.get("KIT_RESIDENT_GB") or 4)
    except ValueError as error:
        raise KitError(f"KIT_RESIDENT_GB must be a number of gigabytes from 0, which streams all: {error}") from None
    for part, pairs in good.items():
        rows, labels = torch.tensor(pairs).unbind(1)
        parts[part] = images.take(rows) if stream else images[rows], labels
    return replace(source, **parts)


def _check_counts(source: Source) -> None:
    """Every class must reach every part, those that are to be cut from train as well."""
    needed, counts = 4 - len(source.parts), Counter(label for _, label in source.train)
    for label, name in enumerate(source.classes):
        if counts[label] < needed:
            have = f"class {name!r} has {counts[label]} readable image(s) in train, at least {needed} are needed"
            raise KitError(f"{have} to split it: add images, or remove the class, or give train, val and test")
    if empty := [part for part, pairs in source.parts.items() if not pairs]:
        raise KitError(f"{empty[0]} has no readable image: give at least one, or leave the part out")
