"""The tensors that every other room receives, checked once when they are built."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from kit.data import stream
from kit.data.stream import Ahead, Streamed
from kit.errors import KitError


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Labelled images on one device.

    images: uint8 [N, C, H, W], a tensor on the device, or `Streamed` (too large for it: slices and rows of it come to
    the device when
    they are asked for); labels: int64 [N], from 0; index: int64 [N], each sample's identity in its source pool (0 ..
    N-1 if left out).
    Raises KitError where types, dtypes, shapes or devices do not fit, or N is 0.
    """

    images: Tensor | Streamed
    labels: Tensor
    index: Tensor | None = None

    def __post_init__(self):
        if not isinstance(self.images, (Tensor, Streamed)) or self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise KitError(f"images must be uint8 [N, C, H, W], a torch tensor, got {_describe(self.images)}")
        if self.images.numel() == 0:
            raise KitError(f"an image set must not be empty, got images {_describe(self.images)}")
        if self.index is None:
            object.__setattr__(self, "index", torch.arange(len(self.images), device=self.images.device))
        for name in ("labels", "index"):
            given = getattr(self, name)
            if not isinstance(given, Tensor) or given.dtype != torch.int64 or given.shape != self.images.shape[:1]:
                raise KitError(f"{name} must be int64 [{len(self.images)}], one for each image, got {_describe(given)}")
            if given.device != self.images.device:
                raise KitError(f"images are on {self.images.device} but {name} on {given.device}: use .to(device)")
        if self.labels.min() < 0:
            raise KitError(f"labels must start at 0, got {int(self.labels.min())}")
        if len(self.index.unique()) != len(self.index):
            raise KitError("a sample occurs twice in one image set: index must hold each number once")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return f"<ImageSet: {_describe(self.images)}>"

    @property
    def device(self) -> torch.device:
        return self.images.device

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set on another device; one that streams goes on streaming, to there."""
        return ImageSet(self.images.to(device), self.labels.to(device), self.index.to(device))

    def take(self, rows: Tensor) -> ImageSet:
        """The images of these rows (int64 [M], of any device), in this order. Of a set that streams, none is read."""
        rows = rows.to(self.device)
        images = self.images.take(rows) if isinstance(self.images, Streamed) else self.images[rows]
        return ImageSet(images, self.labels[rows], self.index[rows])

    def chunks(self, size: int, turn: tuple[int, int] = (0, 1)) -> Iterator[tuple[Tensor, Tensor]]:
        """All of the set in order: (images uint8 [B, C, H, W], labels int64 [B]) on the device, B = size but for the
        last; prefetched
        where the set streams. turn (i, k): only every k-th chunk from the i-th."""
        starts = range(0, len(self), size)[turn[0] :: turn[1]]
        if isinstance(self.images, Tensor):
            yield from ((self.images[i : i + size], self.labels[i : i + size]) for i in starts)
            return
        order = ((i, torch.arange(i, min(i + size, len(self)))) for i in starts)
        yield from ((images, labels) for _, images, labels in Ahead(self.images, self.labels, order))

    def _placed(self, device: torch.device, resident: bool) -> ImageSet:
        streams, images = isinstance(self.images, Streamed), self.images
        if resident:
            images = images.resident(device) if streams else images.to(device)
        else:
            images = images.to(device) if streams else Streamed(images.cpu(), device=device)
        return ImageSet(images, self.labels.to(device), self.index.to(device))


@dataclass(frozen=True, eq=False, repr=False)
class ImageSets:
    """Disjoint train, val and test sets of one data set.

    classes: the name of each label; flip: a horizontal flip keeps the label (not so for digits);
    split: one sentence saying which split this is, for reports. Raises KitError where images differ in shape
    between the splits, a label has no class name, or a sample (by its `index`) is in two splits.
    """

    train: ImageSet
    val: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    name: str
    flip: bool
    split: str

    def __post_init__(self):
        splits = {"train": self.train, "val": self.val, "test": self.test}
        if len(self.classes) < 2:
            raise KitError(f"{self.name}: at least two classes are needed, got {list(self.classes)}")
        for name, part in splits.items():
            if part.images.shape[1:] != self.train.images.shape[1:] or part.device != self.train.device:
                raise KitError(
                    f"{self.name}: images must agree in [C, H, W] and device, train has "
                    f"{_describe(self.train.images)}, {name} has {_describe(part.images)}"
                )
            if part.labels.max() >= len(self.classes):
                raise KitError(
                    f"{self.name}: {name} has label {int(part.labels.max())}, "
                    f"allowed are 0 to {len(self.classes) - 1} for {len(self.classes)} classes"
                )
        for (first, a), (second, b) in combinations(splits.items(), 2):
            shared = a.index[torch.isin(a.index, b.index)]
            if len(shared):
                raise KitError(
                    f"{self.name}: {len(shared)} samples are in both {first} and {second} (index "
                    f"{shared[:5].tolist()}): number each sample once in its source pool"
                )

    def __repr__(self) -> str:
        parts = f"{len(self.train)} train, {len(self.val)} val, {len(self.test)} test"
        return f"<ImageSets {self.name}: {parts}, {self.num_classes} classes, {_describe(self.train.images)}>"

    @property
    def channels(self) -> int:
        return self.train.images.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return tuple(self.train.images.shape[2:])

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def to(self, device: torch.device | str, resident_gb: float | None = None) -> ImageSets:
        """The same sets on another device: as tensors where they fit, else streamed from where they lie.

        They fit below `resident_gb` (GB), else the environment's KIT_RESIDENT_GB, else a quarter of the device's free
        memory. The
        numbers that come out are the same either way.
        """
        device, parts = torch.device(device), (self.train, self.val, self.test)
        allowed, size = stream.budget(device, resident_gb), sum(part.images.numel() for part in parts)
        there = all(isinstance(part.images, Tensor) and part.device.type == device.type for part in parts)
        if allowed is None:  # tensors that are there already have found room
            allowed = size if there else int(stream.free_memory(device) * stream.RESIDENT_SHARE)
        if size > allowed and self.train.device != device:
            print(
                f"{self.name}: {size / 1e9:.2f} GB of images stream to {device} (more than {allowed / 1e9:.2f} GB; KIT_RESIDENT_GB sets it)",
                flush=True,
            )
        train, val, test = (part._placed(device, size <= allowed) for part in parts)
        return replace(self, train=train, val=val, test=test)

    def train_val(self) -> ImageSet:
        """train and val together, for a method that holds nothing out (its report says so)."""
        images = stream.join(self.train.images, self.val.images)
        return ImageSet(
            images, torch.cat([self.train.labels, self.val.labels]), torch.cat([self.train.index, self.val.index])
        )


def normalization(data: ImageSet) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over all pixels, to be taken from training images.

    Returns float32 [C] and [C] on the set's device, in units of [0, 1] pixels. Exact: pixel values are counted and
    summed as integers, so the result depends on neither the device nor the order, nor on whether the set streams (a
    cache
    knows each image's sums). The deviation is at least one grey level (1/255), so that a constant channel divides by no
    zero.
    """
    n, mean, std = data.images.numel() // data.images.shape[1], [], []
    for total, squares in _sums(data).tolist():
        mean.append(total / n / 255)
        # Python integers: the difference of two large sums is exact where floats would cancel.
        std.append(max(((n * squares - total**2) / n**2) ** 0.5, 1.0) / 255)
    return torch.tensor(mean, device=data.device), torch.tensor(std, device=data.device)


def _sums(data: ImageSet) -> Tensor:
    """int64 [C, 2] on the CPU: each channel's sum of values and of their squares."""
    if isinstance(data.images, Streamed) and data.images.sums is not None:
        return data.images.sums[data.images.rows].sum(0)
    level, counts = torch.arange(256), 0
    for images, _ in data.chunks(1024):  # in chunks: bincount widens its input to int64, eight times the images' memory
        counts = (
            counts
            + torch.stack([torch.bincount(images[:, c].flatten(), minlength=256) for c in range(images.shape[1])]).cpu()
        )
    return torch.stack([counts @ level, counts @ level**2], dim=1)


def _describe(given: Any) -> str:
    if isinstance(given, (Tensor, Streamed)):
        return f"{str(given.dtype).removeprefix('torch.')} {list(given.shape)} on {given.device}"
    shape = f" {getattr(given, 'dtype', '')} {list(given.shape)}" if hasattr(given, "shape") else ""
    return f"{type(given).__module__}.{type(given).__qualname__}{shape}"
