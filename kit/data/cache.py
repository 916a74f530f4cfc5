"""Image files decoded once into a memory-mapped array, and sets that are read from it batch by batch.

    <root>/cache/NAME-SIZE-PLACE-DIGEST/images.npy   uint8 [N, C, H, W]
                                        sums.npy     int64 [N, C, 2], `pixel_sums` of each, for the normalization
                                        marks.npy    uint8 [N, 32], SHA-256 of each
                                        bad.json     which files hold no image, and why
                                        note.txt     what was done to images that differ in size

DIGEST is of the files' paths, sizes and times. The folder appears as a whole or not at all. Nothing is unpickled.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from tqdm.auto import tqdm

from kit.data.image import BadImage, decode, quietly, say
from kit.errors import KitError

AT_ONCE = 512  # images that are decoded before they are written
STORED = ("images", "sums", "marks")
VERSION = b"2"  # of what is read from a file: another number makes all caches anew


class Streamed:
    """N images of a pool, uint8 [N, C, H, W]; rows of it come to `device` when they are asked for.

    pool: uint8 [P, C, H, W] on the CPU; sums: int64 [P, C, 2], its `pixel_sums`; rows: int64 [N], which of the pool's
    images these are; marks: uint8 [P, 32], the pool's `pixel_marks`, if they are known.
    """

    def __init__(
        self,
        pool: Tensor,
        sums: Tensor,
        rows: Tensor,
        device: torch.device | str = "cpu",
        marks: Tensor | None = None,
    ):
        self.pool, self.sums, self.rows, self.marks = pool, sums, rows.cpu(), marks
        self.device = torch.empty(0, device=device).device  # with the number of the GPU, as tensors there say it
        self.shape, self.dtype, self.ndim = torch.Size((len(rows), *pool.shape[1:])), pool.dtype, pool.ndim

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        return self.pool[self.rows[rows]].to(self.device)

    def to(self, device: torch.device | str) -> "Streamed":
        return Streamed(self.pool, self.sums, self.rows, device, self.marks)

    def take(self, rows: Tensor) -> "Streamed":
        """Some of these images, in the order of rows (int64); nothing is read."""
        return Streamed(self.pool, self.sums, self.rows[rows.cpu()], self.device, self.marks)


def pixel_sums(images: Tensor) -> Tensor:
    """uint8 [N, C, H, W] → int64 [N, C, 2]: of each image and channel the sum of values and of their squares."""
    pixels = images.flatten(2)
    return torch.stack([pixels.sum(2), pixels.int().square().sum(2)], 2)


def pixel_marks(images: Tensor) -> Tensor:
    """uint8 [N, C, H, W] → uint8 [N, 32]: SHA-256 of each image's pixels."""
    found = [hashlib.sha256(image).digest() for image in np.ascontiguousarray(images.cpu())]
    return torch.from_numpy(np.frombuffer(bytearray(b"".join(found)), np.uint8).reshape(-1, 32))


def decoded(
    files: Sequence[Path], name: Path, image_size: int | None = None, photo_size: int = 32
) -> tuple[Streamed, dict[int, str]]:
    """The images of all files, mapped from the cache's folder `name`-DIGEST, which is made if it is not there.

    Images become RGB, or one grey channel if all are grey. Beside them the rows that hold no image (they are black),
    and why. Where no image_size is given they keep their size, or become squares of photo_size if they differ in it,
    which is said. Raises KitError where no image can be read, and where there is no room for them.
    """
    digest = hashlib.sha256(VERSION)
    for file in files:
        digest.update(os.fsencode(file))
        with contextlib.suppress(OSError):
            state = os.stat(file)  # ctime moves with the content and with the rights to read it
            digest.update(f"\0{state.st_size} {state.st_ctime_ns}\0".encode())
    folder = name.with_name(f"{name.name}-{digest.hexdigest()[:16]}")
    try:
        with alone(name):
            if not folder.is_dir():
                for old in name.parent.iterdir():
                    if old.name.startswith(f"{name.name}-"):
                        shutil.rmtree(old)
                _make(folder, files, image_size, photo_size)
            # mode c: what somebody writes into the images stays in memory
            images, sums, marks = (torch.from_numpy(np.load(folder / f"{part}.npy", "c")) for part in STORED)
            bad, note = json.loads((folder / "bad.json").read_text()), (folder / "note.txt").read_text()
        if note:
            say(note)
        return Streamed(images, sums, torch.arange(len(files)), marks=marks), {row: why for row, _, why in bad}
    except KitError:
        raise
    except (OSError, ValueError) as error:
        mend = "remove it, or set root= or KIT_DATA to a folder with room"
        raise KitError(f"the decoded images cannot be kept in {folder} ({error}): {mend}") from error


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock `path`.lock, so that of several processes one does the work while the others wait."""
    lock = FileLock(f"{path}.lock")
    with contextlib.suppress(OSError):  # in a folder that can only be read there is nothing to wait for
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _make(folder: Path, files: Sequence[Path], image_size: int | None, photo_size: int) -> None:
    new = folder.with_name(f"{folder.name}.new")
    try:
        new.mkdir()
        (new / "note.txt").touch()
        _decode(files, new, image_size, photo_size)
        os.replace(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _decode(files: Sequence[Path], folder: Path, image_size: int | None, photo_size: int, channels: int = 0) -> None:
    """Write all images. The first one says what shape the others have."""
    images, bad, target = None, {}, folder / "images.npy"
    for row, image in enumerate(_images(files, image_size)):
        if isinstance(image, str):
            bad[row] = image
            continue
        if images is None:
            shape = (channels or len(image), *image.shape[1:])
            images = np.lib.format.open_memmap(target, "w+", np.uint8, (len(files), *shape))
            with open(target, "r+b") as file:  # a full disk must show now: later it would end the process
                os.posix_fallocate(file.fileno(), 0, target.stat().st_size)
        if image.shape[1:] != shape[1:]:
            done = f"the shorter side resized to {photo_size} pixels, the centre cropped; image_size= sets another size"
            (folder / "note.txt").write_text(f"{folder.name.partition('-own')[0]}: images differ in size: {done}")
            return _decode(files, folder, photo_size, photo_size)
        if len(image) > shape[0]:  # the first in colour among grey ones
            return _decode(files, folder, image_size, photo_size, channels=3)
        images[row] = image
    if images is None:
        raise KitError(f"none of the {len(files)} images can be read: {listed(bad, files)}")
    for name, of in (("sums", pixel_sums), ("marks", pixel_marks)):
        np.save(folder / f"{name}.npy", np.concatenate([of(part) for part in torch.from_numpy(images).split(256)]))
    reasons = [(row, str(files[row]), why) for row, why in bad.items()]
    (folder / "bad.json").write_text(json.dumps(reasons, indent=0))


def _images(files: Sequence[Path], image_size: int | None) -> Iterator[np.ndarray | str]:
    """Of every file its image, or why it holds none."""

    def attempt(file: Path) -> np.ndarray | str:
        try:
            return decode(file, image_size)
        except BadImage as reason:
            return str(reason)

    silent = getattr(sys.stderr, "closed", True)  # or there is none
    with quietly(), ThreadPoolExecutor() as threads:  # PIL decodes and torch resizes outside Python's lock
        for start in tqdm(range(0, len(files), AT_ONCE), "decoding images", delay=2, mininterval=2, disable=silent):
            yield from threads.map(attempt, files[start : start + AT_ONCE])


def listed(bad: dict[int, str], files: Sequence[Path]) -> str:
    """The first bad images with their reasons, for a message."""
    more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
    return "; ".join(f"{files[row]} ({bad[row]})" for row in list(bad)[:5]) + more
