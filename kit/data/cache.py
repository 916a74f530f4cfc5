"""Image files decoded once into a memory-mapped array, and images that stream from it batch by batch.

    <root>/cache/NAME.npy       uint8 [N, C, H, W], written by `numpy.lib.format.open_memmap`
    <root>/cache/NAME.sums.npy  int64 [N, C, 2], each image's sum of values and of their squares, for the normalization
    <root>/cache/NAME.json      which files these are (a digest of paths, sizes and times) and which could not be read

The JSON file is written last: images without it are never used. Nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from tqdm.auto import tqdm

from kit.data.image import BadImage, decode, quietly
from kit.errors import KitError

AHEAD = 4  # batches that are read before they are asked for


class Streamed:
    """N images of a pool, indexed like a tensor along the first axis; what is asked for comes to `device` as uint8.

    pool: uint8 [P, C, H, W] on the CPU, usually memory-mapped; rows: int64 [N], which of the pool's images these are
    (None: all); sums: int64 [P, C, 2] as in the cache, where they are known.
    """

    def __init__(
        self,
        pool: Tensor,
        rows: Tensor | None = None,
        device: torch.device | str = "cpu",
        sums: Tensor | None = None,
    ):
        self.pool, self.sums = pool, sums
        self.device = torch.empty(0, device=device).device  # with the number of the GPU, as tensors there say it
        self.rows = torch.arange(len(pool)) if rows is None else rows.cpu()
        self.shape, self.dtype, self.ndim = torch.Size((len(self.rows), *pool.shape[1:])), pool.dtype, pool.ndim

    def __len__(self) -> int:
        return len(self.rows)

    def numel(self) -> int:
        return self.shape.numel()

    def __getitem__(self, key: Any) -> Tensor:
        first, *rest = key if isinstance(key, tuple) else (key,)
        rows = self.rows[first.cpu() if isinstance(first, Tensor) else first]
        return self.pool[rows].to(self.device)[(*(slice(None),) * rows.ndim, *rest)]

    def take(self, rows: Tensor) -> Streamed:
        """Some of these images, in the order of rows (int64); nothing is read."""
        return Streamed(self.pool, self.rows[rows.cpu()], self.device, self.sums)

    def to(self, device: torch.device | str) -> Streamed:
        """The same images, to be delivered to another device."""
        return Streamed(self.pool, self.rows, device, self.sums)

    def resident(self, device: torch.device | str) -> Tensor:
        """All of them as one tensor on the device."""
        return torch.cat([self.pool[rows].to(device) for rows in self.rows.split(4096)])


def join(first: Tensor | Streamed, second: Tensor | Streamed) -> Tensor | Streamed:
    """Two sets' images one after the other; images of one pool are not copied."""
    if isinstance(first, Tensor):
        return torch.cat([first, second])
    if first.pool is second.pool:
        return Streamed(first.pool, torch.cat([first.rows, second.rows]), first.device, first.sums)
    return Streamed(torch.cat([first.resident("cpu"), second.resident("cpu")]), device=first.device)


def prefetch(images: Streamed, labels: Tensor, order: Iterator[tuple[Any, Tensor]]) -> Iterator[tuple]:
    """Read batches ahead, in threads: a batch is a copy of mapped memory, which does not hold Python's lock.

    order: yields (mark, rows int64 [B] on the CPU). Yields (mark, images uint8 [B, C, H, W], labels int64 [B]) on the
    images' device, in that order; a mark comes with its own batch.
    """
    device, labels, waiting = images.device, labels.cpu(), deque()
    pinned = device.type == "cuda"

    def read(rows: Tensor) -> list[Tensor]:
        batch = [images.pool.index_select(0, images.rows[rows]), labels[rows]]
        return [part.pin_memory() for part in batch] if pinned else batch

    def received() -> tuple:
        mark, batch = waiting.popleft()
        return mark, *(part.to(device, non_blocking=pinned) for part in batch.result())

    start = {"initializer": torch.cuda.set_device, "initargs": (device,)} if pinned else {}
    threads = ThreadPoolExecutor(2, thread_name_prefix="kit-prefetch", **start)
    try:
        for mark, rows in order:
            waiting.append((mark, threads.submit(read, rows)))
            if len(waiting) > AHEAD:
                yield received()
        while waiting:
            yield received()
    finally:  # also when this generator is dropped in the middle
        threads.shutdown(cancel_futures=True)


def room(device: torch.device) -> int:
    """Bytes up to which a set lives on the device as a whole: the environment's KIT_RESIDENT_GB (in 10^9 bytes), else a
    quarter of the memory that is free there. Raises KitError where the value is not a number from 0."""
    if given := os.environ.get("KIT_RESIDENT_GB"):
        with contextlib.suppress(ValueError):
            if 0 <= float(given) < math.inf:
                return int(float(given) * 1e9)
        raise KitError(f"KIT_RESIDENT_GB={given!r} is no number of gigabytes: give one from 0 (streams every set)")
    return free_memory(device) // 4  # joining train and val copies once more, and the network needs room too


def free_memory(device: torch.device | str) -> int:
    """Bytes that are free on the device: what CUDA says, or the machine's memory within the container's limit."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    with contextlib.suppress(OSError, ValueError):  # no such file on this system, or "max": no limit
        free = int(re.search(r"MemAvailable:\s*(\d+)", Path("/proc/meminfo").read_text())[1]) * 1024
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, max(0, limit - used))
    return free


# ---- decoded once --------------------------------------------------------------------------------


class Pool(NamedTuple):
    """images: uint8 [N, C, H, W]; sums: int64 [N, C, 2]; bad: row → why it holds no image (it is black)."""

    images: Tensor
    sums: Tensor
    bad: dict[int, str]


def decoded(files: Sequence[Path], name: str, folder: Path, image_size: int | None = None) -> Pool:
    """The images of all files, mapped from the cache in `folder`, which is made if it does not have them as they are.

    Images become RGB, or one grey channel if all are grey. Raises KitError where no image can be read, where they
    differ in size and no image_size is given, and where the folder has no room for them.
    """
    digest = hashlib.sha256(str(image_size).encode())
    for file in files:
        digest.update(os.fsencode(file) + b"\0")
        with contextlib.suppress(OSError):
            state = os.stat(file)  # ctime moves with the content and with the rights to read it
            digest.update(f"{state.st_size} {state.st_ctime_ns}".encode())
    key = hashlib.sha256(os.fsencode(f"{os.path.commonpath(files)}\0{name}")).hexdigest()[:8]
    stem = folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)[:80]}-{image_size or 'own'}-{key}"
    try:
        with alone(stem):
            if (pool := _mapped(stem, digest.hexdigest())) is None:
                _write(stem, digest.hexdigest(), files, name, image_size)
            return pool or _mapped(stem, digest.hexdigest())
    except OSError as error:
        reason = f"the decoded images cannot be kept in {folder} ({error.strerror or error})"
        raise KitError(f"{name}: {reason}: set root= or KIT_DATA to a folder with room") from error


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


def _mapped(stem: Path, digest: str) -> Pool | None:
    try:
        about = json.loads(Path(f"{stem}.json").read_text())
        # mode c: what somebody writes into the images stays in memory
        images, sums = np.load(f"{stem}.npy", mmap_mode="c"), np.load(f"{stem}.sums.npy")
        bad = {int(row): reason for row, reason in about["bad"].items()}
        return Pool(torch.from_numpy(images), torch.from_numpy(sums), bad) if about["digest"] == digest else None
    except Exception:  # there is none, or it was altered: whatever is wrong with it, it is made anew
        return None


class _Colour(Exception):
    """Among images that looked grey there is one in colour."""


def _write(stem: Path, digest: str, files: Sequence[Path], name: str, image_size: int | None) -> None:
    """The first image that can be read says how many channels and, without image_size, how large the others are."""
    bad: dict[int, str] = {}

    def attempt(row: int) -> np.ndarray | None:
        try:
            return decode(files[row], image_size)
        except BadImage as reason:
            bad[row] = str(reason)

    new = stem.with_name(f".{stem.name}.new")
    try:
        with quietly():
            images = ((row, attempt(row)) for row in range(len(files)))
            lead, first = next(((row, image) for row, image in images if image is not None), (0, None))
            if first is None:
                raise KitError(f"{name}: none of the {len(files)} images can be read: {listed(bad, files)}")
            try:
                sums = _fill(new, first.shape, files, lead, attempt, name)
            except _Colour:  # rare: a set that is partly grey and begins so
                sums = _fill(new, (3, *first.shape[1:]), files, lead, attempt, name)
        Path(f"{stem}.json").unlink(missing_ok=True)
        np.save(f"{stem}.sums.npy", sums)
        os.replace(new, f"{stem}.npy")
        new.write_text(json.dumps({"digest": digest, "bad": dict(sorted(bad.items()))}))
        os.replace(new, f"{stem}.json")
    finally:
        new.unlink(missing_ok=True)


def _fill(new: Path, shape: tuple, files: Sequence[Path], lead: int, attempt: Callable, name: str) -> np.ndarray:
    """Write all images, each of this shape, into the file `new`; returns their sums."""
    images = np.lib.format.open_memmap(new, "w+", np.uint8, (len(files), *shape))
    with open(new, "r+b") as file:  # a full disk must show now: a write into mapped memory would end the process
        os.posix_fallocate(file.fileno(), 0, new.stat().st_size)
    sums = np.zeros((len(files), shape[0], 2), np.int64)

    def put(row: int) -> None:
        if (image := attempt(row)) is None:
            return
        if image.shape[1:] != shape[1:]:
            differ = " and ".join(f"{files[i]} is {w}x{h}" for i, (h, w) in ((lead, shape[1:]), (row, image.shape[1:])))
            raise KitError(f"images differ in size: {differ}: pass image_size=32, say, to resize and crop them")
        if len(image) > shape[0]:
            raise _Colour
        images[row] = image
        values = images[row].astype(np.int64)
        sums[row] = np.stack([values.sum((1, 2)), np.square(values).sum((1, 2))], axis=1)

    threads = ThreadPoolExecutor(min(16, os.cpu_count() or 1))  # PIL decodes and torch resizes outside Python's lock
    try:
        parts = (range(len(files))[i : i + 4096] for i in range(0, len(files), 4096))  # a million tasks take memory
        rows = itertools.chain.from_iterable(threads.map(put, part) for part in parts)
        for _ in tqdm(rows, f"decoding {name}", len(files), delay=2, mininterval=1 if sys.stderr.isatty() else 10):
            pass
    finally:  # also after an error or an interrupt: what waits is not begun
        threads.shutdown(cancel_futures=True)
    return sums


def listed(bad: dict[int, str], files: Sequence[Path], shown: int = 10) -> str:
    """The first bad images with their reasons, for a message."""
    common = os.path.commonpath([file.parent for file in files])
    reasons = [f"{os.path.relpath(files[row], common)} ({bad[row]})" for row in sorted(bad)[:shown]]
    return f"in {common}: {'; '.join(reasons)}" + (f"; and {len(bad) - shown} more" if len(bad) > shown else "")
