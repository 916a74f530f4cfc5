"""Your own images: a folder of class folders, or train/, [val/,] test/ of class folders."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from kit.data.source import Source, fit
from kit.errors import KitError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm")
_LAYOUT = "expected FOLDER/CLASS/IMAGE, or FOLDER/train/CLASS/IMAGE and FOLDER/test/CLASS/IMAGE"
_VAL_NAMES = ("val", "valid", "validation")
_GREY, _TOO_DEEP = ("1", "L"), ("I", "F")

Classes = dict[str, list[Path]]  # class name -> its image files, both sorted


def read_folder(path: str | os.PathLike, image_size: int | None = None) -> Source:
    """Decode a folder of class folders (of .jpg, .png, .bmp, .webp, .gif, .tif or .ppm files).

    Classes and files are sorted by name; names that start with a dot are skipped. Images become RGB, or one grey
    channel if all are grey, turned as their EXIF says; of an animation the first frame counts. Without image_size
    they must agree in size. Raises KitError, naming the file or folder and what to do, if the folder is missing or
    empty, has images outside class folders, a class without images (or too few to split), fewer than two classes,
    splits that differ in classes, or images that cannot be read.
    """
    folder = Path(path).expanduser()
    if not folder.exists():
        raise KitError(f"folder {folder} was not found (from {Path.cwd()}): check the path; {_LAYOUT}")
    if not folder.is_dir():
        raise KitError(f"{folder} is a file, not a folder: unpack it if it is an archive; {_LAYOUT}")
    found = {split: _class_files(part) for split, part in _splits(folder).items()}
    _check_classes(folder, found)
    classes = tuple(found["train"])
    files = [file for part in found.values() for name in classes for file in part[name]]
    images = _decode_all(files, folder, image_size)
    counts = {split: [len(part[name]) for name in classes] for split, part in found.items()}
    pieces = images.split([sum(count) for count in counts.values()])
    parts = {split: (piece, torch.arange(len(classes)).repeat_interleave(torch.tensor(counts[split])))
             for split, piece in zip(found, pieces, strict=True)}
    return Source(classes, **parts)


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
        raise KitError(f"{folder} has train/ but no test/: add test/ (or rename val/), "
                       f"or load {train} alone and kit will split it")
    return {"train": train} | ({"val": val[0]} if val else {}) | {"test": test}


def _class_files(folder: Path) -> Classes:
    items = _visible(folder)
    folders = [item for item in items if item.is_dir()]
    loose = [item for item in items if _is_image(item)]
    if not items:
        raise KitError(f"folder {folder} is empty: {_LAYOUT}")
    if loose:
        raise KitError(f"images without class folders: {loose[0]} and {len(loose) - 1} more lie directly in {folder}: "
                       f"move each into a folder named after its class; {_LAYOUT}")
    if not folders:
        raise KitError(f"labels without images: {folder} holds {items[0].name} but no class folders: {_LAYOUT}")
    found = {item.name: [file for file in _visible(item) if _is_image(file)] for item in folders}
    for name, files in found.items():
        if not files:
            raise KitError(f"class folder {folder / name} has no images ({', '.join(EXTENSIONS)}) directly in it: "
                           f"add some or remove the folder; {_LAYOUT}")
    return found


def _check_classes(folder: Path, found: dict[str, Classes]) -> None:
    classes = list(found["train"])
    if len(classes) < 2:
        raise KitError(f"{folder} has only one class, {classes[0]!r}: at least two class folders are needed; {_LAYOUT}")
    for split, part in found.items():
        differ = sorted(set(classes) ^ set(part))
        if differ:
            have, lack = ("train", split) if differ[0] in classes else (split, "train")
            raise KitError(f"{folder}: class folder {differ[0]!r} is in {have}/ but not in {lack}/: "
                           "the splits need the same class folders")
    # One image for each split that is to be cut from train.
    needed = {1: 3, 2: 2, 3: 1}[len(found)]
    for name, files in found["train"].items():
        if len(files) < needed:
            raise KitError(f"class {name!r} has {len(files)} image(s), the first {files[0]}: at least {needed} are "
                           "needed to split it; add images, or remove the class, or give train/, val/ and test/")


def _decode_all(files: list[Path], folder: Path, image_size: int | None) -> Tensor:
    """uint8 [N, 1 or 3, H, W], in the order of files."""
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:  # PIL decodes outside the GIL
        images = list(pool.map(lambda file: _decode(file, image_size), files))
    bad = [f"{file.relative_to(folder)} ({image})"
           for file, image in zip(files, images, strict=True) if isinstance(image, str)]
    if bad:
        more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise KitError(f"{len(bad)} unreadable image(s) in {folder}: {'; '.join(bad[:5])}{more}: "
                       "replace or remove the file(s)")
    for file, image in zip(files, images, strict=True):
        if image.shape[1:] != images[0].shape[1:]:
            (h, w), (h0, w0) = image.shape[1:], images[0].shape[1:]
            raise KitError(f"images differ in size: {files[0]} is {w0}x{h0}, {file} is {w}x{h}: "
                           "pass image_size=... to resize and crop them, such as image_size=32")
    channels = max(image.shape[0] for image in images)
    return torch.stack([image.expand(channels, -1, -1) for image in images])


def _decode(file: Path, image_size: int | None) -> Tensor | str:
    """uint8 [1 or 3, H, W], or why the file cannot be read."""
    try:
        with Image.open(file) as opened:
            if opened.mode.startswith(_TOO_DEEP):
                return f"mode {opened.mode}: more than 8 bits a channel; save it with 8 bits"
            opened = ImageOps.exif_transpose(opened)
            pixels = np.array(opened.convert("L" if opened.mode in _GREY else "RGB"))
    except Exception as error:  # PIL's decoders raise OSError, SyntaxError, struct.error and more on broken files
        # Without the path that PIL repeats: the message names it already.
        return f"{type(error).__name__}: {str(error).replace(str(file), file.name)}"
    image = torch.from_numpy(pixels)
    image = image[None] if image.ndim == 2 else image.permute(2, 0, 1).contiguous()
    return image if image_size is None else fit(image[None], image_size)[0]


def _visible(folder: Path) -> list[Path]:
    return sorted((item for item in folder.iterdir() if not item.name.startswith((".", "__MACOSX"))),
                  key=lambda item: item.name)


def _is_image(item: Path) -> bool:
    return item.suffix.lower() in EXTENSIONS and item.is_file()
