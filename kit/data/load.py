"""From a data set's name or path to disjoint train, val and test sets."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch

from kit.data.cache import Streamed, alone, decoded, listed
from kit.data.named import NAMED
from kit.data.own import REGISTRY, Entry, datasets, read_csv, read_folder
from kit.data.sets import ImageSets, Source, to_sets
from kit.errors import KitError, unknown

REGISTRY.update(NAMED)
ON_BAD_IMAGE = ("error", "skip")


def data_root(root: str | os.PathLike | None = None) -> Path:
    """Where data sets are kept: `root`, else the environment's KIT_DATA, else ~/.cache/kit/data."""
    return Path(root or os.environ.get("KIT_DATA") or "~/.cache/kit/data").expanduser()


def load_dataset(
    name: str | os.PathLike,
    root: str | os.PathLike | None = None,
    image_size: int | None = None,
    on_bad_image: str = "error",
) -> ImageSets:
    """Disjoint train, val and test sets as uint8 images; the same on every call and machine.

    name: one of `datasets()`, or the path of a folder of class folders, of a folder with train/, [val/,] test/ of class
    folders, or of a CSV file with the columns path, label and, if wanted, split. root: where data sets are kept, see
    `data_root`. image_size: resize the shorter side and crop the centre to this many pixels; by default images keep
    their size, or take the one that the data set is read at. on_bad_image: "error" lists images that cannot be used,
    with the reasons, and stops; "skip" lists them and goes on without. One's own images are taken to keep their label
    when flipped; `register` a loader to say otherwise. Raises KitError: unknown name, path that cannot be read, data
    that is neither here nor to be downloaded.
    """
    if image_size is not None and (type(image_size) is not int or image_size < 1):
        raise KitError(f"image_size must be a positive integer (pixels) or None, got {image_size!r}")
    if on_bad_image not in ON_BAD_IMAGE:
        raise unknown("on_bad_image", on_bad_image, ON_BAD_IMAGE)
    name, folder, flip = os.fspath(name), data_root(root), True
    if name in REGISTRY:
        image_size, flip = image_size or REGISTRY[name].size, REGISTRY[name].flip
        source = _published(name, REGISTRY[name], folder, image_size)
    else:
        path = Path(os.path.expanduser(name))
        if not name or not (os.sep in name or name.startswith((".", "~")) or os.path.exists(path)):
            known = unknown("dataset", name, datasets())
            raise KitError(f"{known}; or give the path of a folder of class folders, or of a CSV file of path,label")
        is_list = path.suffix.lower() == ".csv" and not path.is_dir()
        source = read_csv(path) if is_list else read_folder(path)
        name = path.resolve().stem if is_list else path.resolve().name
    if isinstance(source.train, list):
        source = _decoded(source, name, folder, image_size, on_bad_image)
    return to_sets(source, name, flip, image_size)


def _published(name: str, entry: Entry, root: Path, image_size: int | None) -> Source:
    if not entry.bring:  # it lies in a package, or somebody registered it
        return entry.loader(root, image_size)
    with alone(root / f".{name}"):
        try:
            source = entry.loader(root, image_size)
            found = tuple(len(part[1] if isinstance(part, tuple) else part) for part in source.parts.values())
            if isinstance(entry.images, tuple) and len(found) == len(entry.images) and found != entry.images:
                raise FileNotFoundError(f"{found} images are there, {entry.count} are published: remove what is there")
            if isinstance(source.train, list):
                files = [file for part in source.parts.values() for file, _ in part]
                if lost := [file for file in files if not os.path.exists(file)]:
                    raise FileNotFoundError(f"{len(lost)} of {len(files)} images are missing, such as {lost[0]}")
            return source
        except Exception as error:  # urllib, requests, tarfile, rarfile, scipy, torchvision have each their own
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            mend = f"{entry.bring.format(root=root)}; or set root= or KIT_DATA to a folder that has it"
            raise KitError(
                f"dataset {name!r} is not (wholly) in {root} and was not fetched ({reason}): {mend}"
            ) from error


def _decoded(source: Source, name: str, root: Path, image_size: int | None, on_bad_image: str) -> Source:
    """The same source with images in place of files, without those that cannot be read."""
    _check_counts(source, "image(s)")
    files = [Path(file).absolute() for part in source.parts.values() for file, _ in part]
    twice, n = Counter(files).most_common(1)[0]
    if n > 1:
        raise KitError(f"{name}: {twice} is listed twice: an image belongs to one part and one class; remove one")
    pool = decoded(files, name, root / "cache", image_size)
    if pool.bad:
        said = f"{name}: {len(pool.bad)} of {len(files)} images are unreadable"
        if on_bad_image == "error":
            mend = "replace or remove them, or pass on_bad_image='skip' to leave them out"
            raise KitError(f"{said}: {listed(pool.bad, files)}: {mend}")
        bad_list = root / "cache" / f"{name}.bad_images.txt"
        text = "".join(f"{files[row]}\t{reason}\n" for row, reason in pool.bad.items())
        try:
            bad_list.parent.mkdir(parents=True, exist_ok=True)
            bad_list.write_text(text, errors="surrogateescape")
            print(f"{said} and left out; the list with the reasons is {bad_list}", flush=True)
        except OSError:
            print(f"{said} and left out: {listed(pool.bad, files)}", flush=True)
    parts, good, start = {}, {}, 0
    for part, pairs in source.parts.items():
        rows = [row for row in range(start, start + len(pairs)) if row not in pool.bad]
        good[part] = [pairs[row - start] for row in rows]
        labels = torch.tensor([label for _, label in good[part]], dtype=torch.int64)
        parts[part] = Streamed(pool.images, torch.tensor(rows, dtype=torch.int64), sums=pool.sums), labels
        start += len(pairs)
    _check_counts(replace(source, **good), "readable image(s)")
    return replace(source, **parts)


def _check_counts(source: Source, kind: str) -> None:
    """Every class must reach every part, those that are to be cut from train as well."""
    needed, counts = 4 - len(source.parts), Counter(label for _, label in source.train)
    for label, name in enumerate(source.classes):
        if counts[label] < needed:
            have = f"class {name!r} has {counts[label]} {kind} in train, at least {needed} are needed to split it"
            raise KitError(f"{have}: add images, or remove the class, or give train, val and test")
    if empty := [part for part, pairs in source.parts.items() if not pairs]:
        raise KitError(f"{empty[0]} has no {kind}: give at least one, or None for a part that is not published")
