"""Decoded images on the disk: one file of raw uint8 images, read by mapping it into memory, and a JSON file beside it
that vouches for it.

    NAME.images   N x C x H x W bytes; then int64 [N, C, 2], each image's sums of values and of squares; then uint32
    [N], each
                  image's CRC-32
    NAME.json     version, digest of the files that were decoded, shape, bad images, the CRC-32 of the tail, when it was
    written
    NAME.bad_images.txt, where there are any

Both are written under a temporary name, flushed and renamed, the JSON file last. Nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import math
import mmap
import os
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kit.data.stream import free_memory
from kit.errors import KitError
from kit.run import store

VERSION = 1
FULL_CHECK = (
    2**28
)  # bytes up to which every image's checksum is compared at each start; above, that of every image of a sample
SAMPLE = 256  # images
_DIFFERS = {"version": "another version of kit wrote it", "digest": "the image files changed"}


class Unusable(Exception):
    """Why a cache is not used."""


@dataclass(frozen=True, eq=False)
class Pool:
    """images: uint8 [N, C, H, W], mapped read-only or in memory; sums: int64 [N, C, 2]; bad: row → why it holds no
    image (it is black);
    announce: rows int64 [B] → has the disk begin to read them; None for images in memory."""

    images: Tensor
    sums: Tensor
    bad: dict[int, str]
    announce: Callable[[Tensor], None] | None = None


class Memory:
    """Images [N, C, H, W] that are put in row by row, from any thread. Raises KitError where they do not fit into half
    of the free memory.
    """

    def __init__(self, name: str, shape: tuple[int, ...]):
        size, free = math.prod(shape), free_memory("cpu")
        if size > free / 2:
            raise KitError(
                f"{name}: {shape[0]:,} images of {shape[3]}x{shape[2]} pixels take {size / 1e9:.1f} GB and {free / 1e9:.1f} GB of "
                "memory are free: pass a smaller image_size=, or set root= or KIT_DATA to a folder with room for a cache"
            )
        self.shape = shape
        self.sums, self.checks = np.zeros((*shape[:2], 2), np.int64), np.zeros(shape[0], np.uint32)
        self._open()

    def _open(self) -> None:
        self.images = np.zeros(self.shape, np.uint8)

    def put(self, row: int, image: np.ndarray) -> None:
        """image: uint8 [C, H, W], contiguous."""
        self.sums[row, :, 0] = image.sum((1, 2), dtype=np.int64)
        self.sums[row, :, 1] = np.square(image, dtype=np.uint16).sum((1, 2), dtype=np.int64)
        self._write(row, image)

    def _write(self, row: int, image: np.ndarray) -> None:
        self.images[row] = image

    def finish(self, bad: dict[int, str]) -> Pool:
        return Pool(torch.from_numpy(self.images), torch.from_numpy(self.sums), bad)

    def abandon(self) -> None:
        del self.images


class _File(Memory):
    """The same on the disk. OSError where there is no room, or no right to write."""

    def __init__(self, place: Place, shape: tuple[int, ...], about: dict):
        self.place, self.shape, self.about = place, shape, about
        self.sums, self.checks = np.zeros((*shape[:2], 2), np.int64), np.zeros(shape[0], np.uint32)
        self.temporary = place.images.with_name(f".{place.images.name}.{os.getpid()}.tmp")
        self.descriptor = os.open(self.temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            _reserve(self.descriptor, math.prod(shape) + self.sums.nbytes + self.checks.nbytes)
        except OSError:
            self.abandon()
            raise

    def _write(self, row: int, image: np.ndarray) -> None:
        content = image.tobytes()
        self.checks[row] = zlib.crc32(content)
        _write_at(self.descriptor, content, row * len(content))

    def finish(self, bad: dict[int, str]) -> Pool:
        tail = self.sums.tobytes() + self.checks.tobytes()
        _write_at(self.descriptor, tail, math.prod(self.shape))
        os.fsync(self.descriptor)
        self._close()
        os.replace(self.temporary, self.place.images)
        self.place.describe(
            self.about
            | {"shape": list(self.shape), "tail": zlib.crc32(tail), "bad": {str(k): v for k, v in bad.items()}}
        )
        try:
            return self.place.read(self.about)
        except Unusable as reason:
            raise OSError(errno.EIO, f"what was written is not what is read: {reason}") from None

    def abandon(self) -> None:
        self._close()
        self.temporary.unlink(missing_ok=True)

    def _close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1


def _reserve(descriptor: int, size: int) -> None:
    """A full disk shows here, before hours of decoding; writing into a mapped file would end the process."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except (AttributeError, OSError) as error:  # not on every system, nor on every file system
        if getattr(error, "errno", None) not in (None, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        os.ftruncate(descriptor, size)


def _write_at(descriptor: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


class Place:
    """Where one set's cache lies, named `stem` in `folder`."""

    def __init__(self, folder: Path, stem: str):
        self.folder, self.stem = folder, stem
        self.images, self.about, self.bad_list = (
            folder / f"{stem}.{kind}" for kind in ("images", "json", "bad_images.txt")
        )

    def read(self, expected: dict) -> Pool:
        """Map the cache. expected: what its JSON file must say (version, digest of the files, image_size). Raises
        Unusable with the reason.
        """
        if not self.about.is_file():
            raise Unusable("there is none")
        try:
            about = store.read_json(self.about)
            if about.pop("seal") != _seal(about):
                raise Unusable("its JSON file was altered")
            for name, value in expected.items():
                if about[name] != value:
                    raise Unusable(_DIFFERS.get(name, f"its {name} is another"))
            shape, bad = tuple(about["shape"]), {int(row): str(reason) for row, reason in about["bad"].items()}
            if len(shape) != 4 or not all(type(n) is int and n > 0 for n in shape):
                raise Unusable(f"its shape is {shape}")
            return self._mapped(about, shape, bad)
        except (KitError, KeyError, TypeError, AttributeError, ValueError, OSError) as error:
            raise Unusable(f"it cannot be read ({type(error).__name__}: {error})") from None

    def _mapped(self, about: dict, shape: tuple[int, ...], bad: dict[int, str]) -> Pool:
        n, channels, size = shape[0], shape[1], math.prod(shape)
        whole, state = size + n * channels * 16 + n * 4, self.images.stat()
        if state.st_size != whole:
            raise Unusable(f"it has {state.st_size:,} bytes instead of {whole:,}")
        with open(self.images, "rb") as file:
            mapped = mmap.mmap(file.fileno(), whole, access=mmap.ACCESS_READ)
        tail = mapped[size:]
        if zlib.crc32(tail) != about["tail"]:
            raise Unusable("its checksums differ")
        sums, checks = (
            np.frombuffer(tail[: n * channels * 16], np.int64),
            np.frombuffer(tail[n * channels * 16 :], np.uint32),
        )
        images = np.frombuffer(mapped, np.uint8, size).reshape(shape)
        touched = state.st_mtime_ns != about["written"]
        rows = range(n) if touched or size <= FULL_CHECK else np.linspace(0, n - 1, SAMPLE).astype(int).tolist()
        for row in rows:
            if row not in bad and zlib.crc32(images[row]) != checks[row]:
                raise Unusable(f"image {row} was altered")
        if touched:  # copied, say: it was checked as a whole, and need not be the next time
            with contextlib.suppress(OSError):
                self.describe(about)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # torch knows no read-only tensors; all that is done with this one is to gather from it
            return Pool(
                torch.from_numpy(images),
                torch.from_numpy(sums.reshape(n, channels, 2).copy()),
                bad,
                _announcer(mapped, size // n),
            )

    def describe(self, about: dict) -> None:
        about = about | {"written": self.images.stat().st_mtime_ns}
        store.write_json(self.about, about | {"seal": _seal(about)})

    def writer(self, shape: tuple[int, ...], about: dict) -> _File:
        """A file to put images of `shape` in; `finish` makes it the cache."""
        for left in self.folder.glob(
            f".{glob.escape(self.images.name)}.*.tmp"
        ):  # of a process that was killed: the lock is ours
            left.unlink(missing_ok=True)
        return _File(self, shape, about)

    @contextlib.contextmanager
    def building(self, name: str) -> Iterator[None]:
        """One process at a time; the others wait, and say so. OSError where the folder cannot be written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / f".{self.stem}.lock", "a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{name}: another process is decoding the images; waiting for it", flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _announcer(mapped: mmap.mmap, row_bytes: int) -> Callable[[Tensor], None] | None:
    """Reading a page at the moment of its use waits for the disk each time; told of a batch's pages before, it reads
    them at once
    (measured on a cold 3 GB file: 1,000 images of 150 kB a second without, 4,000 with)."""
    if not hasattr(mmap, "MADV_WILLNEED"):
        return None

    def announce(rows: Tensor) -> None:
        for start in (rows * row_bytes).tolist():
            begin = start - start % mmap.PAGESIZE
            mapped.madvise(mmap.MADV_WILLNEED, begin, start + row_bytes - begin)

    return announce


def _seal(about: dict) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
