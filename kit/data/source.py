"""What a loader returns, checked once, and from there to disjoint sets."""

from __future__ import annotations

import operator
import unicodedata
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from kit.data.image import fit
from kit.data.sets import SPLIT_SEED, ImageSet, ImageSets, described, stratified_split
from kit.errors import KitError

Part = tuple[Tensor, Tensor] | list[tuple[Path, int]]  # (images, labels), or image files with their labels
CONTRACT = (
    "kit.data.Source(classes, train), if wanted with val and test, each part (images, labels) of torch tensors, uint8 "
    "[N, 1 or 3, H, W] and int64 [N], or a list of (image file, label)"
)
ALIKE = str.maketrans("АВЕКМНОРСТХаеорсухΑΒΕΖΗΙΚΜΝΟΡΤΥΧο", "ABEKMHOPCTXaeopcyxABEZHIKMNOPTYXo")  # of other scripts


@dataclass(frozen=True, eq=False)
class Source:
    """What a loader returns: the parts that the source publishes, each (images uint8 [N, C, H, W], labels int64 [N]) or
    a list of (image file, label).

    classes: the name of each label; whole numbers become text. Without test, both fractions are of `train`; with test
    but without val, only `val_fraction` is. split: one sentence saying whose split this is, for reports. Raises
    KitError for val without test, fewer than two classes, or names that look alike or cannot be written.
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
        if not isinstance(self.classes, (list, tuple, np.ndarray)):
            raise KitError(f"classes must be a list of names, got {described(self.classes)}")
        names, looks = tuple(_class_name(name) for name in self.classes), {}
        object.__setattr__(self, "classes", names)
        if len(names) < 2:
            raise KitError(f"at least two classes are needed, got {list(names)}")
        for name in names:
            if (look := _look(name)) in looks:
                are = "are called" if looks[look] == name else f"look alike, {looks[look]!r} and"
                raise KitError(f"two classes {are} {name!r}: give each class a name of its own")
            looks[look] = name

    @property
    def parts(self) -> dict[str, Part]:
        """The parts that are given, by name: train, val, test, in this order."""
        return {name: part for name in ("train", "val", "test") if (part := getattr(self, name)) is not None}


def _class_name(given: Any) -> str:
    """Text in one Unicode form. Raises KitError for what is none, or could not be written into a run's files."""
    name = str(given) if isinstance(given, (str, Integral)) else ""
    if not _look(name) or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        raise KitError(f"a class is called {given!r}: a name must be text that UTF-8 can write, on one line; rename it")
    return unicodedata.normalize("NFC", name)


def _look(name: str) -> str:
    """The same for names that a reader takes for one. Single letters may be classes of their own."""
    shown = "".join(letter for letter in name if unicodedata.category(letter) != "Cf").strip()
    if len(shown) == 1:
        return shown
    return " ".join(unicodedata.normalize("NFKC", shown).translate(ALIKE).casefold().split())


def checked(source: Any) -> Source:
    """The source with its files as paths and their labels as integers. Raises KitError where it breaks `CONTRACT`."""
    if not isinstance(source, Source):
        raise KitError(f"got {described(source)}")
    parts = {name: _checked_part(name, part, len(source.classes)) for name, part in source.parts.items()}
    if len({type(part) for part in parts.values()}) > 1:
        raise KitError("some parts are tensors and some are files")
    return replace(source, **parts)


def _checked_part(name: str, part: Any, classes: int) -> Part:
    if isinstance(part, (tuple, list)) and len(part) == 2 and any(hasattr(one, "shape") for one in part):
        n, channels, *size = ImageSet(*part).images.shape
        if channels not in (1, 3):
            mend = "permute(0, 3, 1, 2) puts them first" if size[-1] in (1, 3, 4) else "images[:, :3] is RGB of RGBA"
            raise KitError(f"{name} has images {[n, channels, *size]}: 1 or 3 channels are needed, {mend}")
        return tuple(part)
    try:
        if not isinstance(part, (tuple, list)):
            raise TypeError(f"it is {described(part)}")
        pairs = [(Path(file), operator.index(label)) for file, label in part]
    except (TypeError, ValueError) as error:
        raise KitError(f"{name} is neither (images, labels) nor a list of (image file, label): {error}") from None
    if wrong := [pair for pair in pairs if not 0 <= pair[1] < classes]:
        raise KitError(f"{name} has {wrong[0][0]} with label {wrong[0][1]}, allowed are 0 to {classes - 1}")
    return pairs


def to_sets(source: Source, name: str, flip: bool, image_size: int | None = None) -> ImageSets:
    """Resize, and hold out what the source does not. Raises KitError where the parts break ImageSets' contract."""
    parts = {part: ImageSet(*given) for part, given in source.parts.items()}
    if image_size is not None:
        parts = {part: replace(data, images=fit(data.images, image_size)) for part, data in parts.items()}
    pool, seed = parts["train"], f"(split seed {SPLIT_SEED})"
    if source.test is None:
        kept, test = stratified_split(pool.labels, source.test_fraction)
        train, val = stratified_split(pool.labels[kept], source.val_fraction / (1 - source.test_fraction))
        parts = {"train": pool.take(kept[train]), "val": pool.take(kept[val]), "test": pool.take(test)}
        shares = 1 - source.val_fraction - source.test_fraction, source.val_fraction, source.test_fraction
        split = "the source has no split: stratified {:.0%} train, {:.0%} val, {:.0%} test ".format(*shares) + seed
        split = f"{source.split}; {split}" if source.split else split
    elif source.val is None:
        train, val = stratified_split(pool.labels, source.val_fraction)
        parts |= {"train": pool.take(train), "val": pool.take(val)}
        held = f"val is a stratified {source.val_fraction:.0%} of its training images {seed}"
        split = f"{source.split or 'test as the source gives it'}; {held}"
    else:
        split = source.split or "train, val and test as the source gives them"
    return ImageSets(**parts, classes=tuple(source.classes), name=name, flip=flip, split=split)
