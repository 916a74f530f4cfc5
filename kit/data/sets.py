"""The tensors that every other room receives, checked once when they are built."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor

from kit.errors import KitError


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images on one device.

    images: uint8 [N, C, H, W]; labels: int64 [N], from 0; index: int64 [N], each sample's identity in its source
    pool (0 .. N-1 if left out). Raises KitError where dtypes, shapes or devices do not fit, or N is 0.
    """

    images: Tensor
    labels: Tensor
    index: Tensor | None = None

    def __post_init__(self):
        if self.index is None:
            object.__setattr__(self, "index", torch.arange(len(self.images), device=self.images.device))
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise KitError(f"images must be uint8 [N, C, H, W], got {_describe(self.images)}")
        for name in ("labels", "index"):
            given = getattr(self, name)
            if given.dtype != torch.int64 or given.shape != self.images.shape[:1]:
                raise KitError(f"{name} must be int64 [{len(self.images)}], one for each image, got {_describe(given)}")
            if given.device != self.images.device:
                raise KitError(f"images are on {self.images.device} but {name} on {given.device}: use .to(device)")
        if self.images.numel() == 0:
            raise KitError(f"an image set must not be empty, got images {_describe(self.images)}")
        if self.labels.min() < 0:
            raise KitError(f"labels must start at 0, got {int(self.labels.min())}")
        if len(self.index.unique()) != len(self.index):
            raise KitError("a sample occurs twice in one image set: index must hold each number once")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        return self.images.device

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set on another device."""
        return ImageSet(self.images.to(device), self.labels.to(device), self.index.to(device))


@dataclass(frozen=True, eq=False)
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
                raise KitError(f"{self.name}: images must agree in [C, H, W] and device, train has "
                               f"{_describe(self.train.images)}, {name} has {_describe(part.images)}")
            if part.labels.max() >= len(self.classes):
                raise KitError(f"{self.name}: {name} has label {int(part.labels.max())}, "
                               f"allowed are 0 to {len(self.classes) - 1} for {len(self.classes)} classes")
        for (first, a), (second, b) in combinations(splits.items(), 2):
            shared = a.index[torch.isin(a.index, b.index)]
            if len(shared):
                raise KitError(f"{self.name}: {len(shared)} samples are in both {first} and {second} (index "
                               f"{shared[:5].tolist()}): number each sample once in its source pool")

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

    def to(self, device: torch.device | str) -> ImageSets:
        """The same sets on another device."""
        return replace(self, train=self.train.to(device), val=self.val.to(device), test=self.test.to(device))

    def train_val(self) -> ImageSet:
        """train and val together, for a method that holds nothing out (its report says so)."""
        pairs = zip(_tensors(self.train), _tensors(self.val), strict=True)
        return ImageSet(*(torch.cat(pair) for pair in pairs))


def normalization(data: ImageSet) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over all pixels, to be taken from training images.

    Returns float32 [C] and [C] on the set's device, in units of [0, 1] pixels. Exact: pixel values are counted and
    summed as integers, so the result depends on neither the device nor the order. The deviation is at least one
    grey level (1/255), so that a constant channel divides by no zero.
    """
    channels, level = data.images.shape[1], torch.arange(256)
    mean, std = [], []
    for c in range(channels):
        # In chunks: bincount widens its input to int64, eight times the images' memory.
        counts = sum(torch.bincount(chunk.flatten(), minlength=256) for chunk in data.images[:, c].split(4096)).cpu()
        n = int(counts.sum())
        total, squares = int((counts * level).sum()), int((counts * level**2).sum())
        mean.append(total / n / 255)
        # Python integers: the difference of two large sums is exact where floats would cancel.
        std.append(max(((n * squares - total**2) / n**2) ** 0.5, 1.0) / 255)
    return torch.tensor(mean, device=data.device), torch.tensor(std, device=data.device)


def _tensors(data: ImageSet) -> tuple[Tensor, Tensor, Tensor]:
    return data.images, data.labels, data.index


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)} on {tensor.device}"
