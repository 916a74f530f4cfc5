"""The images that every other room receives: disjoint train, val and test sets, checked once when they are built."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kit.data.cache import Streamed, join, prefetch, room
from kit.data.image import fit
from kit.errors import KitError

SPLIT_SEED = 0  # a constant, not the run's seed: runs that differ in seed share val and test

Part = tuple[Tensor, Tensor] | list[tuple[Path, int]]  # (images, labels), or image files with their labels


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Labelled images on one device.

    images: uint8 [N, C, H, W], a tensor on the device, or `Streamed` where it does not fit there (slices and rows of it
    come to the device when they are asked for); labels: int64 [N], from 0; index: int64 [N], each sample's number in
    its source (0 … N-1 if left out). Raises KitError where types, dtypes, shapes or devices do not fit, or N is 0.
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
        """All of the set in order: (images uint8 [B, C, H, W], labels int64 [B]) on the device; B is `size` but for the
        last. turn (i, k): only every k-th chunk, from the i-th."""
        starts = range(0, len(self), size)[turn[0] :: turn[1]]
        if isinstance(self.images, Tensor):
            yield from ((self.images[i : i + size], self.labels[i : i + size]) for i in starts)
            return
        order = ((i, torch.arange(i, min(i + size, len(self)))) for i in starts)
        yield from ((images, labels) for _, images, labels in prefetch(self.images, self.labels, order))


@dataclass(frozen=True, eq=False, repr=False)
class ImageSets:
    """Disjoint train, val and test sets of one data set.

    classes: the name of each label; flip: a horizontal flip keeps the label (not so for digits); split: one sentence
    saying which split this is, for reports. Raises KitError where images differ in shape between the splits, a label
    has no class name, or a sample (by its `index`) is in two splits.
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
                differ = f"train has {_describe(self.train.images)}, {name} has {_describe(part.images)}"
                raise KitError(f"{self.name}: images must agree in [C, H, W] and device, {differ}")
            if part.labels.max() >= len(self.classes):
                allowed = f"allowed are 0 to {len(self.classes) - 1} for {len(self.classes)} classes"
                raise KitError(f"{self.name}: {name} has label {int(part.labels.max())}, {allowed}")
        for (first, a), (second, b) in combinations(splits.items(), 2):
            if len(shared := a.index[torch.isin(a.index, b.index)]):
                both = f"{len(shared)} samples are in both {first} and {second} (index {shared[:5].tolist()})"
                raise KitError(f"{self.name}: {both}: number each sample once in its source")

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

    def to(self, device: torch.device | str) -> ImageSets:
        """The same sets on another device: as tensors where they fit (see `kit.data.cache.room`), else streamed from
        where they lie. The numbers that come out are the same either way."""
        device, parts = torch.device(device), (self.train, self.val, self.test)
        size = sum(part.images.numel() for part in parts)
        there = all(isinstance(part.images, Tensor) and part.device.type == device.type for part in parts)
        fits = (there and not os.environ.get("KIT_RESIDENT_GB")) or size <= room(device)
        if not fits and self.train.device != device:
            print(f"{self.name}: {size / 1e9:.2f} GB of images stream to {device} (KIT_RESIDENT_GB sets what does)")

        def placed(part: ImageSet) -> ImageSet:
            images = part.images
            if isinstance(images, Streamed):
                images = images.resident(device) if fits else images.to(device)
            else:
                images = images.to(device) if fits else Streamed(images.cpu(), device=device)
            return ImageSet(images, part.labels.to(device), part.index.to(device))

        train, val, test = map(placed, parts)
        return replace(self, train=train, val=val, test=test)

    def train_val(self) -> ImageSet:
        """train and val together, for a method that holds nothing out (its report says so)."""
        a, b = self.train, self.val
        return ImageSet(join(a.images, b.images), torch.cat([a.labels, b.labels]), torch.cat([a.index, b.index]))


@dataclass(frozen=True, eq=False)
class Source:
    """What a loader returns: the parts that the source publishes, each (images uint8 [N, C, H, W], labels int64 [N]) or
    a list of (image file, label); files are decoded, resized and cached.

    classes: the name of each label. Without test, `train` is the whole and both fractions are of it; with test but
    without val, `val_fraction` is of `train`; with both, the fractions are unused. split: one sentence saying whose
    split this is, for reports. Raises KitError for val without test, fewer than two classes, or two of one name.
    """

    classes: tuple[str, ...]
    train: Part
    val: Part | None = None
    test: Part | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    split: str | None = None

    def __post_init__(self):
        if self.val is not None and self.test is None:
            raise KitError("a source with a val part needs a test part too: give val as test, or join it to train")
        if len(self.classes) < 2:
            raise KitError(f"at least two classes are needed, got {list(self.classes)}")
        if len(set(self.classes)) < len(self.classes):
            twice = sorted({name for name in self.classes if self.classes.count(name) > 1})
            raise KitError(f"two classes are called {twice[0]!r}: give each class a name of its own")

    @property
    def parts(self) -> dict[str, Part]:
        """The parts that are given, by name: train, val, test, in this order."""
        named = {"train": self.train, "val": self.val, "test": self.test}
        return {name: part for name, part in named.items() if part is not None}


def to_sets(source: Source, name: str, flip: bool, image_size: int | None = None) -> ImageSets:
    """Hold out what the source does not, number the samples, resize. Raises KitError where the parts break ImageSets'
    contract."""
    parts, start = {}, 0
    for part, given in source.parts.items():
        data = ImageSet(*given)  # checked before it is worked on
        images = data.images if image_size is None else fit(data.images, image_size)
        parts[part] = ImageSet(images, data.labels, data.index + start)
        start += len(data)
    pool, seed = parts["train"], f"(split seed {SPLIT_SEED})"
    if source.test is None:
        kept, test = stratified_split(pool.labels, source.test_fraction)
        train, val = stratified_split(pool.labels[kept], source.val_fraction / (1 - source.test_fraction))
        parts = {"train": pool.take(kept[train]), "val": pool.take(kept[val]), "test": pool.take(test)}
        shares = {"val": source.val_fraction, "test": source.test_fraction}
        shares = {"train": 1 - sum(shares.values())} | shares
        shown = ", ".join(f"{share:.0%} {part}" for part, share in shares.items())
        split = (f"{source.split}; " if source.split else "") + f"the source has no split: stratified {shown} {seed}"
    elif source.val is None:
        train, val = stratified_split(pool.labels, source.val_fraction)
        parts |= {"train": pool.take(train), "val": pool.take(val)}
        held = f"val is a stratified {source.val_fraction:.0%} of its training images {seed}"
        split = f"{source.split or 'test as the source gives it'}; {held}"
    else:
        split = source.split or "train, val and test as the source gives them"
    sets = ImageSets(**parts, classes=tuple(source.classes), name=name, flip=flip, split=split)
    return sets.to("cpu")  # what fits becomes tensors


def stratified_split(labels: Tensor, fraction: float, seed: int = SPLIT_SEED) -> tuple[Tensor, Tensor]:
    """Hold out `fraction` of the samples of every class at random.

    labels: int64 [N]. Returns (kept, held), ascending int64 indices on the CPU that together are 0 … N-1. Each class
    gives its share rounded down or up, so that the total is round(fraction · N); a class of two or more keeps and gives
    at least one, a class of one keeps it. Depends on labels, fraction and seed alone.
    """
    if not 0 < fraction < 1:
        raise KitError(f"fraction must be between 0 and 1, got {fraction}")
    labels = labels.cpu().numpy()
    # RandomState, not default_rng: numpy freezes its stream, so a split outlives the next numpy.
    random = np.random.RandomState(seed)
    held, seen = [], 0
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        # Rounding the running total, not each class, carries remainders on: thirty classes of 4 give 12, not 0.
        # int(x + 0.5): round() would send halves to the even neighbour and make shares uneven.
        share = int(fraction * (seen + len(members)) + 0.5) - int(fraction * seen + 0.5)
        seen += len(members)
        share = min(max(share, 1), len(members) - 1)
        held.append(random.permutation(members)[:share])
    held = np.sort(np.concatenate(held))
    kept = np.setdiff1d(np.arange(len(labels)), held)
    return torch.from_numpy(kept), torch.from_numpy(held)


def normalization(data: ImageSet) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over all pixels, to be taken from training images.

    Returns float32 [C] and [C] on the set's device, in units of [0, 1] pixels. Exact: pixel values are summed as
    integers, so the result depends on neither the device nor the order, nor on whether the set streams (a cache knows
    each image's sums). The deviation is at least one grey level (1/255): a constant channel divides by no zero.
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
    sums = 0
    for images, _ in data.chunks(256):  # in chunks: the squares need more bits than the images have
        values = images.transpose(0, 1).flatten(1)
        sums = sums + torch.stack([values.sum(1), values.int().square().sum(1)], 1).cpu()
    return sums


def _describe(given: Any) -> str:
    if isinstance(given, (Tensor, Streamed)):
        return f"{str(given.dtype).removeprefix('torch.')} {list(given.shape)} on {given.device}"
    shape = f" {getattr(given, 'dtype', '')} {list(given.shape)}" if hasattr(given, "shape") else ""
    return f"{type(given).__module__}.{type(given).__qualname__}{shape}"
