"""Images that stay where they are (in a memory-mapped cache, or in memory) and come to the device batch by batch."""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kit.errors import KitError

DEPTH = 4  # batches that wait on the device
RESIDENT_SHARE = 0.25  # of the free memory: joining train and val copies once more, and the network needs room too
_PIECE = 2**28  # bytes copied at a time when a whole set moves to the device


class Streamed:
    """N images of a pool, read like a tensor along the first axis: slices and `index_select` give uint8 tensors on
    `device`.

    pool: uint8 [P, C, H, W] on the CPU, may be memory-mapped and read-only; rows: int64 [N] on the CPU, which of the
    pool's images
    these are (None: all); sums: int64 [P, C, 2], each image's sum of values and of their squares, where the cache knows
    them;
    announce: has the disk begin to read rows of the pool.
    """

    def __init__(
        self,
        pool: Tensor,
        rows: Tensor | None = None,
        device: torch.device | str = "cpu",
        sums: Tensor | None = None,
        announce: Callable[[Tensor], None] | None = None,
    ):
        self.pool, self.sums, self.announce, self.device = pool, sums, announce, torch.device(device)
        if self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", torch.cuda.current_device())  # as tensors there say it
        self.rows = torch.arange(len(pool)) if rows is None else rows.cpu()

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"<Streamed: uint8 {list(self.shape)}, to {self.device}>"

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.rows), *self.pool.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        return self.pool.dtype

    @property
    def ndim(self) -> int:
        return self.pool.ndim

    def numel(self) -> int:
        return self.shape.numel()

    def __getitem__(self, key: Any) -> Tensor:
        first, *rest = key if isinstance(key, tuple) else (key,)
        rows = self.rows[first.cpu() if isinstance(first, Tensor) else first]
        images = self._read(rows.reshape(-1)).to(self.device)
        images = images if rows.ndim else images[0]
        return images[(slice(None),) * min(rows.ndim, 1) + tuple(rest)] if rest else images

    def index_select(self, dim: int, rows: Tensor) -> Tensor:
        if dim != 0:
            raise KitError(f"streamed images are selected along their first axis, got dim={dim}")
        return self[rows]

    def gather(self, rows: Tensor, out: Tensor | None = None) -> Tensor:
        """uint8 [B, C, H, W] on the CPU. rows: int64 [B] on the CPU."""
        return self._read(self.rows[rows], out)

    def _read(self, places: Tensor, out: Tensor | None = None) -> Tensor:
        if self.announce is not None:
            self.announce(places)
        return torch.index_select(self.pool, 0, places, out=out)

    def take(self, rows: Tensor) -> Streamed:
        """Some of these images, in the order of rows (int64); nothing is read."""
        return Streamed(self.pool, self.rows[rows.cpu()], self.device, self.sums, self.announce)

    def to(self, device: torch.device | str) -> Streamed:
        """The same images, to be delivered to another device."""
        return Streamed(self.pool, self.rows, device, self.sums, self.announce)

    def resident(self, device: torch.device | str) -> Tensor:
        """All of them as one tensor on the device, copied in pieces."""
        whole = torch.empty(self.shape, dtype=torch.uint8, device=device)
        size = max(1, _PIECE // max(1, self.shape[1:].numel()))
        for places, target in zip(self.rows.split(size), whole.split(size), strict=True):
            target.copy_(self._read(places))
        return whole


def join(first: Tensor | Streamed, second: Tensor | Streamed) -> Tensor | Streamed:
    """Two sets' images one after the other; images of one pool are not copied."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.cat([first, second])
    if first.pool is second.pool:
        return Streamed(first.pool, torch.cat([first.rows, second.rows]), first.device, first.sums, first.announce)
    return Streamed(torch.cat([first.resident("cpu"), second.resident("cpu")]), device=first.device)


def budget(device: torch.device | str, resident_gb: float | None = None) -> int | None:
    """Bytes up to which a set lives on the device as a whole: `resident_gb` (GB of 10^9 bytes), else the environment's
    KIT_RESIDENT_GB; None where neither says it. Raises KitError where the value is not a number from 0."""
    given = os.environ.get("KIT_RESIDENT_GB") if resident_gb is None else resident_gb
    if given in (None, ""):
        return None
    try:
        value = float(given)
    except (TypeError, ValueError):
        value = -1.0
    if not 0 <= value < float("inf"):
        source = "KIT_RESIDENT_GB" if resident_gb is None else "resident_gb"
        raise KitError(
            f"{source}={given!r} is not a number of gigabytes: give a number from 0 (0 streams every set), or leave it out"
        )
    return int(value * 1e9)


def free_memory(device: torch.device | str) -> int:
    """Bytes that are free on the device: what CUDA says, or the machine's available memory within the container's
    limit.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line)
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    try:
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):  # no such file, or "max": no limit
        return free
    return min(free, max(0, limit - used))


class Ahead:
    """An iterator that gathers and transfers in a thread of its own, at most `DEPTH` batches ahead.

    order: yields (mark, rows int64 [B] on the CPU); each step gives (mark, images uint8 [B, C, H, W], labels int64 [B])
    on the images'
    device. An exception of the thread is raised by the step that would have had its batch; the thread ends with the
    object.
    """

    def __init__(self, images: Streamed, labels: Tensor, order: Iterator[tuple[Any, Tensor]]):
        self._waiting: queue.Queue = queue.Queue(DEPTH)
        self._end: BaseException | None = None
        self._device = images.device
        stop = threading.Event()
        # The thread knows nothing of this object: else neither would ever go.
        thread = threading.Thread(
            target=_fill, args=(images, labels, order, self._waiting, stop), daemon=True, name="kit-prefetch"
        )
        self.close = weakref.finalize(self, _stop, thread, stop)
        thread.start()

    def __iter__(self) -> Ahead:
        return self

    def __next__(self) -> tuple[Any, Tensor, Tensor]:
        if self._end is None:
            item = self._waiting.get()
            if not isinstance(item, BaseException):
                return self._received(*item)
            self._end = item
            self.close()
        raise self._end

    def _received(self, mark: Any, images: Tensor, labels: Tensor, ready: Any) -> tuple[Any, Tensor, Tensor]:
        if ready is not None:
            here = torch.cuda.current_stream(self._device)
            here.wait_event(ready)
            for tensor in (
                images,
                labels,
            ):  # its memory is the side stream's: not to be reused before this stream is done with it
                tensor.record_stream(here)
        return mark, images, labels


def _fill(
    images: Streamed, labels: Tensor, order: Iterator[tuple[Any, Tensor]], waiting: queue.Queue, stop: threading.Event
) -> None:
    try:
        deliver = _ToGPU(images, labels) if images.device.type == "cuda" else _ToCPU(images, labels)
        for mark, rows in order:
            if not _put(waiting, (mark, *deliver(rows)), stop):
                return
        end: BaseException = StopIteration()
    except BaseException as error:  # also a MemoryError: the step must hear of it rather than wait for ever
        end = error
    _put(waiting, end, stop)


def _put(waiting: queue.Queue, item: Any, stop: threading.Event) -> bool:
    while not stop.is_set():
        try:
            waiting.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False


def _stop(thread: threading.Thread, stop: threading.Event) -> None:
    stop.set()
    if thread is not threading.current_thread():  # garbage may be collected in any thread
        thread.join(timeout=10)


class _ToCPU:
    def __init__(self, images: Streamed, labels: Tensor):
        self.images, self.labels = images, labels.cpu()

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor, None]:
        return self.images.gather(rows), self.labels[rows], None


class _ToGPU:
    """Through two pinned buffers and a stream of its own: the copy runs while the device computes."""

    def __init__(self, images: Streamed, labels: Tensor):
        self.images, self.labels = images, labels.cpu()
        self.stream = torch.cuda.Stream(images.device)
        self.buffers: list[tuple[Tensor, Tensor]] = []
        self.copied: list[torch.cuda.Event | None] = [None, None]
        self.turn = 0

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor, torch.cuda.Event]:
        if not self.buffers:  # rows of a later batch never outnumber those of the first
            self.buffers = [
                (
                    torch.empty((len(rows), *self.images.shape[1:]), dtype=torch.uint8, pin_memory=True),
                    torch.empty(len(rows), dtype=torch.int64, pin_memory=True),
                )
                for _ in range(2)
            ]
        self.turn = 1 - self.turn
        pixels, classes = (buffer[: len(rows)] for buffer in self.buffers[self.turn])
        if (last := self.copied[self.turn]) is not None:
            last.synchronize()  # the buffer is being read until then
        self.images.gather(rows, out=pixels)
        torch.index_select(self.labels, 0, rows, out=classes)
        with torch.cuda.stream(self.stream):
            moved = [buffer.to(self.images.device, non_blocking=True) for buffer in (pixels, classes)]
            ready = self.copied[self.turn] = torch.cuda.Event()
            ready.record(self.stream)
        return *moved, ready
