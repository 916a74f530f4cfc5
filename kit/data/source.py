"""From what a loader read to disjoint splits: the one place that holds samples out, numbers and resizes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from kit.data.sets import ImageSet, ImageSets
from kit.errors import KitError

SPLIT_SEED = 0  # a constant, not the run's seed: runs that differ in seed share val and test

Labelled = tuple[Tensor, Tensor]  # images uint8 [N, C, H, W], labels int64 [N]
LabelledFiles = list[tuple[Path, int]]  # an image file and its label


@dataclass(frozen=True, eq=False)
class Source:
    """What a loader returns: the parts that the source publishes, each (images uint8 [N, C, H, W], labels int64 [N]).

    Without test, `train` is the whole pool and both fractions are of it; with test but without val, `val_fraction`
    is of `train`; with both, the fractions are unused. val without test is refused with a KitError.
    """

    classes: tuple[str, ...]
    train: Labelled
    val: Labelled | None = None
    test: Labelled | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.2

    def __post_init__(self):
        if self.val is not None and self.test is None:
            raise KitError("a source with a val part needs a test part too: give val as test, or join it to train")


@dataclass(frozen=True, eq=False)
class Files:
    """What a loader returns instead of a `Source` where it knows image files: they are decoded, cached and then split.

    classes: the name of each label; train, val, test: the parts that the source publishes, each a list of (file, label
    from 0).
    The parts and fractions follow the rules of `Source`; split: one sentence saying whose split this is, for reports
    (None: said
    by what was held out). Raises KitError where a part is empty, a label has no class name, fewer than two classes are
    named, two
    classes share a name, or val comes without test.
    """

    classes: tuple[str, ...]
    train: LabelledFiles
    val: LabelledFiles | None = None
    test: LabelledFiles | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    split: str | None = None

    def __post_init__(self):
        if self.val is not None and self.test is None:
            raise KitError("files with a val part need a test part too: give val as test, or join it to train")
        if len(self.classes) < 2:
            raise KitError(f"at least two classes are needed, got {list(self.classes)}")
        if len(set(self.classes)) < len(self.classes):
            twice = sorted({name for name in self.classes if self.classes.count(name) > 1})
            raise KitError(f"two classes are called {twice[0]!r}: give each class a name of its own")
        for name, part in self.parts().items():
            if not part:
                raise KitError(
                    f"{name} has no image files: give at least one, or None for a part that the source does not publish"
                )
            for file, label in part:
                if not 0 <= label < len(self.classes):
                    raise KitError(
                        f"{name}: {file} has label {label}, allowed are 0 to {len(self.classes) - 1} for {len(self.classes)} classes"
                    )

    def parts(self) -> dict[str, LabelledFiles]:
        """The parts that are given, by name: train, val, test, in this order."""
        named = {"train": self.train, "val": self.val, "test": self.test}
        return {name: part for name, part in named.items() if part is not None}


def stratified_split(labels: Tensor, fraction: float, seed: int = SPLIT_SEED) -> tuple[Tensor, Tensor]:
    """Hold out `fraction` of the samples of every class at random.

    labels: int64 [N]. Returns (kept, held), ascending int64 indices on the CPU that together are 0 .. N-1.
    Each class gives its share rounded down or up, so that the total is round(fraction * N); a class of two or more
    keeps and gives at least one, a class of one keeps it. Depends on labels, fraction and seed alone.
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
        share = _round(fraction * (seen + len(members))) - _round(fraction * seen)
        seen += len(members)
        share = min(max(share, 1), len(members) - 1)
        held.append(random.permutation(members)[:share])
    held = np.sort(np.concatenate(held))
    kept = np.setdiff1d(np.arange(len(labels)), held)
    return torch.from_numpy(kept), torch.from_numpy(held)


def fit(images: Tensor, size: int) -> Tensor:
    """Resize the shorter side to `size` (bilinear, antialiased), then crop the centre.

    images: uint8 [N, C, H, W]. Returns uint8 [N, C, size, size], the same tensor where nothing changes.
    """
    if images.shape[-2:] == (size, size):
        return images
    # In chunks: the resize may work in floats, four times the images' memory.
    chunks = (F.center_crop(F.resize(chunk, [size], antialias=True), [size, size]) for chunk in images.split(1024))
    return torch.cat(list(chunks))


def to_sets(source: Source, name: str, flip: bool, image_size: int | None = None) -> ImageSets:
    """Split, number and resize what a loader returned. Raises KitError where the parts break ImageSets' contract."""
    pool = _numbered(source.train, 0, image_size)
    if source.test is None:
        kept, test = stratified_split(pool.labels, source.test_fraction)
        fraction = source.val_fraction / (1 - source.test_fraction)
        inner_train, inner_val = stratified_split(pool.labels[kept], fraction)
        parts = [pool.take(kept[inner_train]), pool.take(kept[inner_val]), pool.take(test)]
        split = (
            f"the source has no split: stratified {1 - source.val_fraction - source.test_fraction:.0%} train, "
            f"{source.val_fraction:.0%} val, {source.test_fraction:.0%} test (split seed {SPLIT_SEED})"
        )
    elif source.val is None:
        train, val = stratified_split(pool.labels, source.val_fraction)
        parts = [pool.take(train), pool.take(val), _numbered(source.test, len(pool), image_size)]
        split = (
            f"test as the source gives it; val is a stratified {source.val_fraction:.0%} of its training images "
            f"(split seed {SPLIT_SEED})"
        )
    else:
        val = _numbered(source.val, len(pool), image_size)
        parts = [pool, val, _numbered(source.test, len(pool) + len(val), image_size)]
        split = "train, val and test as the source gives them"
    return ImageSets(*parts, classes=tuple(source.classes), name=name, flip=flip, split=split).to(
        "cpu"
    )  # what fits becomes tensors


def _numbered(part: Labelled, start: int, image_size: int | None) -> ImageSet:
    data = ImageSet(*part)  # checked before it is worked on
    images = data.images if image_size is None else fit(data.images, image_size)
    return ImageSet(images, data.labels, data.index + start)


def _round(value: float) -> int:
    return int(value + 0.5)  # round() would send halves to the even neighbour and make shares uneven
