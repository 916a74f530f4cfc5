"""What the tests of the data room share."""

from pathlib import Path

import torch
from PIL import Image

from kit.data import ImageSet, ImageSets


def some_set(n=10, channels=1, size=4, classes=2):
    generator = torch.Generator().manual_seed(n)
    images = torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=generator)
    return ImageSet(images, torch.arange(n) % classes)


def save_images(folder: Path, n: int, size=(6, 6), mode="RGB", start=0):
    """000.png, 001.png, …, each with its number in its pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + n):
        Image.new(mode, size, i if mode == "L" else (i, 2 * i, 3 * i)).save(folder / f"{i:03}.png")


def parts(sets: ImageSets) -> tuple[ImageSet, ImageSet, ImageSet]:
    return sets.train, sets.val, sets.test


def sizes(sets: ImageSets) -> list[int]:
    return [len(part) for part in parts(sets)]


def same(a: ImageSets, b: ImageSets) -> bool:
    return all(
        torch.equal(getattr(x, name)[:], getattr(y, name)[:])
        for x, y in zip(parts(a), parts(b), strict=True)
        for name in ("images", "labels")
    )
