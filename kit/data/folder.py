"""Your own images: a folder of class folders, or train/, [val/,] test/ of class folders."""

from __future__ import annotations

import os
from pathlib import Path

from kit.data.source import Files
from kit.errors import KitError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm")
_LAYOUT = "expected FOLDER/CLASS/IMAGE, or FOLDER/train/CLASS/IMAGE and FOLDER/test/CLASS/IMAGE"
_VAL_NAMES = ("val", "valid", "validation")

Classes = dict[str, list[Path]]  # class name -> its image files, both sorted


def read_folder(path: str | os.PathLike, image_size: int | None = None) -> Files:
    """The image files of a folder of class folders (.jpg, .png, .bmp, .webp, .gif, .tif or .ppm), undecoded.

    Classes and files are sorted by name; names that start with a dot are skipped. image_size is not used here: the
    files are decoded at
    the size that `load_dataset` is asked for. Raises KitError, naming the file or folder and what to do, if the folder
    is missing or
    empty, cannot be listed, has images outside class folders, a class without images, fewer than two classes, or splits
    that differ
    in classes.
    """
    folder = Path(os.path.expanduser(path))
    try:
        if not folder.exists():
            raise KitError(f"folder {folder} was not found (from {Path.cwd()}): check the path; {_LAYOUT}")
        if not folder.is_dir():
            raise KitError(f"{folder} is a file, not a folder: unpack it if it is an archive; {_LAYOUT}")
        found = {split: _class_files(part) for split, part in _splits(folder).items()}
    except OSError as error:
        raise KitError(f"folder {folder} cannot be listed: {error}: check its rights") from None
    _check_classes(folder, found)
    classes = tuple(found["train"])
    return Files(
        classes,
        **{
            split: [(file, label) for label, name in enumerate(classes) for file in part[name]]
            for split, part in found.items()
        },
    )


def _splits(folder: Path) -> dict[str, Path]:
    """The folders that hold class folders: train, val and test if there are such, else the folder itself as train."""
    folders = {item.name: item for item in _visible(folder) if item.is_dir()}
    train = folders.pop("train", None)
    # A class may be called train (CIFAR-100 has one): it is a split only if it holds folders.
    if train is None or not any(item.is_dir() for item in _visible(train)):
        return {"train": folder}
    val = [folders.pop(name) for name in _VAL_NAMES if name in folders]
    test = folders.pop("test", None)
    if folders or len(val) > 1:
        stray = (list(folders.values()) + val)[0]
        raise KitError(f"{stray}: beside train/, kit reads one val/ and test/ only: move it elsewhere")
    if test is None:
        raise KitError(
            f"{folder} has train/ but no test/: add test/ (or rename val/), or load {train} alone and kit will split it"
        )
    return {"train": train} | ({"val": val[0]} if val else {}) | {"test": test}


def _class_files(folder: Path) -> Classes:
    items = _visible(folder)
    folders = [item for item in items if item.is_dir()]
    loose = [item for item in items if _is_image(item)]
    if not items:
        raise KitError(f"folder {folder} is empty: {_LAYOUT}")
    if loose:
        raise KitError(
            f"images without class folders: {loose[0]} and {len(loose) - 1} more lie directly in {folder}: "
            f"move each into a folder named after its class; {_LAYOUT}"
        )
    if not folders:
        raise KitError(f"labels without images: {folder} holds {items[0].name} but no class folders: {_LAYOUT}")
    found = {item.name: [file for file in _visible(item) if _is_image(file)] for item in folders}
    for name, files in found.items():
        if not files:
            raise KitError(
                f"class folder {folder / name} has no images ({', '.join(EXTENSIONS)}) directly in it: "
                f"add some or remove the folder; {_LAYOUT}"
            )
    return found


def _check_classes(folder: Path, found: dict[str, Classes]) -> None:
    classes = list(found["train"])
    if len(classes) < 2:
        raise KitError(f"{folder} has only one class, {classes[0]!r}: at least two class folders are needed; {_LAYOUT}")
    for split, part in found.items():
        differ = sorted(set(classes) ^ set(part))
        if differ:
            have, lack = ("train", split) if differ[0] in classes else (split, "train")
            raise KitError(
                f"{folder}: class folder {differ[0]!r} is in {have}/ but not in {lack}/: "
                "the splits need the same class folders"
            )


def _visible(folder: Path) -> list[Path]:
    return sorted(
        (item for item in folder.iterdir() if not item.name.startswith((".", "__MACOSX"))), key=lambda item: item.name
    )


def _is_image(item: Path) -> bool:
    return item.suffix.lower() in EXTENSIONS and item.is_file()
