"""What the tests of the data room share. No test here reaches a network."""

import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from PIL import Image

from kit.data import ImageSet, ImageSets, load_dataset


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def some_set(n=10, channels=1, size=4, classes=2, start=0):
    generator = torch.Generator().manual_seed(n)
    images = torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=generator)
    return ImageSet(images, torch.arange(n) % classes, torch.arange(start, start + n))


def some_sets(**changes):
    given = {
        "train": some_set(),
        "val": some_set(start=10),
        "test": some_set(start=20),
        "classes": ("a", "b"),
        "name": "fake",
        "flip": True,
        "split": "made up",
    }
    return ImageSets(**(given | changes))


def save_images(folder: Path, n: int, size=(6, 6), mode="RGB", start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + n):
        Image.new(mode, size, i if mode == "L" else (i, 2 * i, 3 * i)).save(folder / f"{i:03}.png")


def same(a: ImageSets, b: ImageSets):
    return all(
        torch.equal(getattr(getattr(a, part), name), getattr(getattr(b, part), name))
        for part in ("train", "val", "test")
        for name in ("images", "labels", "index")
    )
