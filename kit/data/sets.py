"""The images that every other room receives: disjoint train, val and test sets, checked once, and shuffled batches."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, StackDataset

from kit.data.image import Streamed, pixel_marks
from kit.errors import KitError, shown, whole
from kit.search import ranks
from kit.search.progress import say

SPLIT_SEED = 0  # a constant, not the run's seed: runs that differ in seed share val and test


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Labelled images on one device. images: uint8 [N, C, H, W], a tensor on the device, or `Streamed` to it; labels:
    int64 [N], from 0. Raises KitError where they do not fit, or N is 0."""

    images: Tensor | Streamed
    labels: Tensor

    def __post_init__(self):
        images, labels = self.images, self.labels
        fits = isinstance(images, (Tensor, Streamed)) and images.dtype == torch.uint8 and images.ndim == 4
        if not fits or images.shape.numel() == 0:
            raise KitError(f"images must be a torch tensor, uint8 [N, C, H, W] and not empty, got {described(images)}")
        wanted = f"int64 [{len(self)}] on {self.device}"
        if described(labels) != wanted or labels.min() < 0:
            given = described(labels) + (f" from {labels.min()}" if isinstance(labels, Tensor) else "")
            raise KitError(f"labels must be {wanted}, one from 0 up for each image, got {given}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        return self.images.device

    def to(self, device: torch.device | str) -> Self:
        """What streams goes on streaming, to that device."""
        return ImageSet(self.images.to(device), self.labels.to(device))

    def take(self, rows: Tensor) -> Self:
        """The images of these rows (int64 [M], of any device), in this order; what streams is not read."""
        rows = rows.to(self.device)
        images = self.images.take(rows) if isinstance(self.images, Streamed) else self.images[rows]
        return ImageSet(images, self.labels[rows])

    def batches(self, order: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """For each rows int64 [B] on the CPU the images uint8 [B, C, H, W] and labels int64 [B], on the device."""
        if isinstance(self.images, Streamed):
            workers = {"num_workers": 2, "pin_memory": True} if self.device.type == "cuda" else {}
            read = StackDataset(self.images.to("cpu"), self.labels.cpu())
            batches = DataLoader(read, None, sampler=order, generator=torch.Generator(), **workers)
            yield from (tuple(t.to(self.device, non_blocking=True) for t in batch) for batch in batches)
            return
        if isinstance(order, Tensor):  # an epoch's rows at once, not a copy in every step
            order = order.to(self.device)
        for rows in order:
            yield tuple(tensor.index_select(0, rows.to(self.device)) for tensor in (self.images, self.labels))

    def chunks(self, size: int, turn: tuple[int, int] = (0, 1)) -> Iterator[tuple[Tensor, Tensor]]:
        """The whole set in order, `size` images at a time. turn (i, k): only every k-th chunk, from the i-th."""
        return self.batches(torch.arange(len(self)).split(size)[turn[0] :: turn[1]])


@dataclass(frozen=True, eq=False, repr=False)
class ImageSets:
    """Disjoint train, val and test sets. classes: the name of each label; flip: a flip keeps the label; split: one
    sentence for reports. Raises KitError where images differ in shape, or a label has no class name."""

    train: ImageSet
    val: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    name: str
    flip: bool
    split: str

    def __post_init__(self):
        for name, part in self.parts.items():
            if part.images.shape[1:] != self.train.images.shape[1:] or part.device != self.train.device:
                differ = f"train has {described(self.train.images)}, {name} has {described(part.images)}"
                raise KitError(f"{self.name}: images must agree in [C, H, W] and device, {differ}")
            if (last := int(part.labels.max())) >= len(self.classes):
                raise KitError(f"{self.name}: {name} has label {last}, allowed are 0 to {len(self.classes) - 1}")

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(part)} {name}" for name, part in self.parts.items())
        return f"<ImageSets {self.name}: {sizes}, {len(self.classes)} classes, {described(self.train.images)}>"

    @property
    def parts(self) -> dict[str, ImageSet]:
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def channels(self) -> int:
        return self.train.images.shape[1]

    @property
    def size(self) -> tuple[int, int]:  # height and width in pixels
        return tuple(self.train.images.shape[2:])

    def to(self, device: torch.device | str) -> Self:
        return replace(self, **{name: part.to(device) for name, part in self.parts.items()})

    def few(self, n: int) -> Self:
        """With n images to learn from, of which val is as large a part as before; test stays whole."""
        all_, classes = len(self.train) + len(self.val), len(self.classes)
        if n > all_:
            raise KitError(f"train_images={n:,} but there are {all_:,}: leave it out to train on all of them")
        held = max(classes, round(n * len(self.val) / all_))
        if n < 2 * classes:
            raise KitError(f"train_images={n} of {classes} classes, {held} held out: set {2 * classes} at least")
        return replace(self, train=drawn(self.train, n - held), val=drawn(self.val, held))

    def train_val(self) -> ImageSet:
        """train and val together, for a method that holds nothing out (its report says so)."""
        one, two = self.train.images, self.val.images
        lazy = isinstance(one, Streamed)
        images = replace(one, rows=torch.cat([one.rows, two.rows])) if lazy else torch.cat([one, two])
        return ImageSet(images, torch.cat([self.train.labels, self.val.labels]))


class Batches:
    """An endless iterator over shuffled batches: (images uint8 [B, C, H, W], labels int64 [B]) on the set's device. An
    epoch is one permutation, of a CPU generator seeded by one draw from `generator`; the incomplete last batch is
    dropped. Each rank takes its share of every batch. Raises KitError for a `batch_size` that does not fit."""

    def __init__(self, data: ImageSet, batch_size: int, generator: torch.Generator):
        if not 1 <= whole("batch_size", batch_size, -1) <= len(data):
            raise KitError(f"batch_size={batch_size} but the set has {len(data)} images: choose 1 to {len(data)}")
        if batch_size % (n := ranks.count()):
            raise KitError(f"{n} ranks do not divide batch_size={batch_size}: start as many as divide it")
        self.data, self.batch_size, self.steps_per_epoch = data, batch_size, len(data) // batch_size
        self._generator = torch.Generator().manual_seed(torch.randint(2**63 - 1, (), generator=generator).item())
        self._enter(self._generator.get_state(), 0)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        if self._position == self.steps_per_epoch:
            self._enter(self._generator.get_state(), 0)
        self._position += 1
        return next(self._epoch)

    def _enter(self, before: Tensor, position: int) -> None:
        """The epoch whose permutation the generator draws from the state `before`, after `position` batches."""
        self._before, self._position = before, position
        self._generator.set_state(before)
        order = torch.randperm(len(self.data), generator=self._generator)
        steps = order[: self.steps_per_epoch * self.batch_size].view(-1, self.batch_size)[position:]
        self._epoch = self.data.batches(ranks.own(steps.T).T)

    def state_dict(self) -> dict[str, Tensor | int]:
        """The generator's state before the epoch's permutation, and how many batches of this epoch were taken."""
        return {"generator": self._before.clone(), "position": self._position}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        self._enter(state["generator"].cpu(), int(state["position"]))


def stratified_split(labels: Tensor, fraction: float, seed: int = SPLIT_SEED) -> tuple[Tensor, Tensor]:
    """Hold out `fraction` of the samples of every class at random. labels: int64 [N]. Returns (kept, held), ascending
    int64 indices on the CPU. Each class gives its share rounded down or up, so that the total is round(fraction · N); a
    class of two or more keeps and gives at least one, a class of one keeps it."""
    if not (isinstance(fraction, Real) and 0 < fraction < 1):
        raise KitError(f"fraction must be between 0 and 1, got {shown(fraction)}")
    labels = labels.cpu().numpy()
    random = np.random.RandomState(seed)  # numpy freezes its stream, so a split outlives the next numpy
    held, seen = [], 0
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        # Rounding the running total, not each class, carries remainders on: thirty classes of 4 give 12, not 0.
        # int(x + 0.5): round() would send halves to the even neighbour and make shares uneven.
        share = int(fraction * (seen + len(members)) + 0.5) - int(fraction * seen + 0.5)
        seen += len(members)
        held.append(random.permutation(members)[: min(max(share, 1), len(members) - 1)])
    held = np.sort(np.concatenate(held))
    return torch.from_numpy(np.delete(np.arange(len(labels)), held)), torch.from_numpy(held)


def part_of(data: ImageSet, n: int) -> ImageSet:
    """About n images with the classes' shares kept, the same ones every time; all for 0 and where that is all."""
    return data.take(stratified_split(data.labels, n / len(data))[1]) if 0 < n < len(data) else data


def drawn(data: ImageSet, n: int) -> ImageSet:
    """n images with the classes' shares kept; the same ones in every run. Raises KitError where so few cannot be."""
    few = part_of(data, n)
    if len(few) != n or len(few.labels.unique()) < len(data.labels.unique()):
        raise KitError(f"{n} of {len(data)} images cannot be drawn evenly from their classes: set train_images to more")
    return few


def digest(sets: ImageSets) -> str:
    """SHA-256 in hex of the images, labels and class names of all parts; alike whether they stream or not. Says where a
    test image is one to learn from, too."""
    total = hashlib.sha256(json.dumps(sets.classes).encode())
    marks = {name: pixel_marks(part.images).numpy() for name, part in sets.parts.items()}
    for name, part in sets.parts.items():
        total.update(f"{name} {list(part.images.shape)}".encode() + marks[name].tobytes())
        total.update(part.labels.cpu().numpy().astype("<i8").tobytes())
    learned = {mark.tobytes() for name in ("train", "val") for mark in marks[name]}
    if again := sum(mark.tobytes() in learned for mark in marks["test"]):
        say(f"{sets.name}: {again} of {len(sets.test)} test images are among those to learn from, pixel for pixel")
    return total.hexdigest()


def normalization(data: ImageSet) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over all pixels, exactly: float32 [C] and [C] on the set's device, of
    pixels in [0, 1]. The deviation is at least one grey level (1/255), so that nothing is divided by zero."""
    sums, n = 0, len(data) * data.images.shape[2:].numel()
    for images, _ in data.chunks(256):
        pixels = images.flatten(2).int()
        sums = sums + torch.stack([pixels.sum((0, 2)), pixels.square().sum((0, 2))], 1)
    sums = sums.tolist()  # Python integers: the difference of two large ones is exact where floats would cancel
    mean = [total / n / 255 for total, _ in sums]
    std = [max(((n * squares - total**2) / n**2) ** 0.5, 1.0) / 255 for total, squares in sums]
    return torch.tensor(mean, device=data.device), torch.tensor(std, device=data.device)


def described(given: Any) -> str:
    if isinstance(given, (Tensor, Streamed)):
        return f"{str(given.dtype).removeprefix('torch.')} {list(given.shape)} on {given.device}"
    return f"{type(given).__module__}.{type(given).__qualname__}"
