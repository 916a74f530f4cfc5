"""How fast images arrive: kit's streaming path against torchvision's ImageFolder + DataLoader on the same JPEG files.

    python benchmarks/data.py [--images 2000 --image-size 224 --batch-size 128 --repeats 7 --workers 2]

Makes JPEG files of 256x256 pixels (Fashion-MNIST where it is found, else digits; enlarged, tinted, with noise), decodes
them once into kit's cache, then reads shuffled epochs in turn, both from the page cache: kit from its own file
(`KIT_RESIDENT_GB=0`: nothing is resident), torchvision from the JPEG files (resize, centre crop, uint8).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import common
import numpy as np
import torch
from PIL import Image
from torchvision import datasets as tv
from torchvision.transforms import v2

import kit
from kit.data import Batches, ImageSet, read_folder
from kit.data.image import decoded

SIZE = {"images": 2000, "image_size": 224, "batch_size": 128, "workers": 2}


def make_files(folder: Path, n: int) -> str:
    """n JPEG files in class folders; returns what they show."""
    try:
        name = "fashion_mnist"
        source = kit.load_dataset(name).train
    except kit.KitError:
        name = "digits"
        source = kit.load_dataset(name).train
    random = np.random.RandomState(0)
    for i in range(n):
        grey = Image.fromarray(source.images[i % len(source), 0].numpy()).resize((256, 256), Image.Resampling.BICUBIC)
        pixels = np.asarray(grey, np.float32)[..., None] * random.uniform(0.4, 1.0, 3) + random.normal(
            0, 6, (256, 256, 3)
        )
        target = folder / str(int(source.labels[i % len(source)])) / f"{i:05}.jpg"
        target.parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(target, quality=90)
    return name


def rate(batches: Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor]]]) -> float:
    """Images/s."""
    began, seen = time.perf_counter(), 0
    for images, _ in batches():
        seen += len(images)
    return seen / (time.perf_counter() - began)


def section(repeats: int, images: int, image_size: int, batch_size: int, workers: int) -> str:
    os.environ["KIT_RESIDENT_GB"] = "0"
    with tempfile.TemporaryDirectory() as folder:
        files, root = Path(folder) / "files", Path(folder) / "root"
        made_of = make_files(files, images)
        began = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):  # its progress is no part of the report
            listed = read_folder(files).train
            pool, _ = decoded([file for file, _ in listed], root / "benchmark", image_size)
            data = ImageSet(pool, torch.tensor([label for _, label in listed]))
        took = time.perf_counter() - began
        rates = measure(data, files, repeats, image_size, batch_size, workers)
    ours, theirs = rates.values()
    rows = [
        (
            what,
            f"{common.median(found):,.0f}",
            f"{min(found):,.0f} … {max(found):,.0f}",
            f"{1000 * batch_size / common.median(found):,.1f}",
            ratio,
        )
        for (what, found), ratio in zip(rates.items(), (common.shown(common.ratio(ours, theirs), 1), "1.0"))
    ]
    return (
        f"## data: {images:,} JPEG files of 256², read at {image_size}², batches of {batch_size}, shuffled\n\n"
        f"Images ({made_of}, enlarged) on disk as class folders. kit decodes them once into its cache ({took:.1f} s "
        f"here, {images / took:,.0f} images/s) and streams "
        f"from there, nothing resident; torchvision decodes JPEG files in every epoch, with {workers} worker "
        "processes. Both from the page cache, wall-clock. "
        "A step that takes longer than a batch does is not kept waiting.\n\n"
        + common.table(
            ("what", "images/s, median", "lowest … highest", "ms a batch", "÷ torchvision (median, quartiles)"), rows
        )
        + f"\n\nn = {repeats} measurements each, in turn; one is an epoch of torchvision's and ten of kit's.\n"
    )


def measure(
    data: ImageSet, files: Path, repeats: int, image_size: int, batch_size: int, workers: int
) -> dict[str, list[float]]:
    """Images/s of both, taking turns."""
    shape = [v2.Resize(image_size, antialias=True), v2.CenterCrop(image_size), v2.PILToTensor()]
    folder = tv.ImageFolder(str(files), v2.Compose(shape))
    loader = torch.utils.data.DataLoader(
        folder, batch_size, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    batches = Batches(data, batch_size, torch.Generator().manual_seed(0))
    # ten epochs of kit against one: an epoch of its is short
    kinds = {
        "kit, streamed": lambda: (next(batches) for _ in range(10 * batches.steps_per_epoch)),
        "torchvision, ImageFolder + DataLoader": lambda: loader,
    }
    for epoch in kinds.values():  # workers start, files come into the page cache
        rate(epoch)
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(repeats):
        for kind, epoch in kinds.items():
            rates[kind].append(rate(epoch))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {**SIZE, "repeats": 7}.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    torch.set_num_threads(1)
    print(section(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
