"""How fast images arrive: kit's streaming path against torchvision's ImageFolder + DataLoader on the same JPEG files.

    python benchmarks/data.py [--images 2000 --image-size 224 --batch-size 128 --repeats 7 --workers 2]

Makes JPEG files of 256x256 pixels (Fashion-MNIST where it is found, else digits; enlarged, tinted, with noise), decodes them once into
kit's cache, then reads shuffled epochs in turn, both from the page cache: kit from its own file (`KIT_RESIDENT_GB=0`: nothing is
resident), torchvision from the JPEG files (resize, centre crop, uint8). Prints images/s of each, medians with the lowest and highest,
and their ratio pair by pair.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import datasets as tv
from torchvision.transforms import v2

import kit
from kit import provenance
from kit.data import Batches, ImageSet, read_folder
from kit.data.decode import to_source


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
        pixels = np.asarray(grey, np.float32)[..., None] * random.uniform(0.4, 1.0, 3) + random.normal(0, 6, (256, 256, 3))
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("images", 2000), ("image-size", 224), ("batch-size", 128), ("repeats", 7), ("workers", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    a = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["KIT_RESIDENT_GB"] = "0"
    where = provenance.describe(torch.device("cpu"))
    print(f"{where['processor']}, {where['cores']} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, commit {where['commit']}")
    with tempfile.TemporaryDirectory() as folder:
        files, root = Path(folder) / "files", Path(folder) / "root"
        made_of = make_files(files, a.images)
        began = time.perf_counter()
        source = to_source(read_folder(files), name="benchmark", root=root, image_size=a.image_size)
        took = time.perf_counter() - began
        print(f"{a.images} JPEG files of 256x256 ({made_of}), read at {a.image_size}: decoded into the cache in {took:.1f} s "
              f"({a.images / took:.0f} images/s, once)", flush=True)  # fmt: skip
        compare(ImageSet(*source.train), files, a)


def compare(data: ImageSet, files: Path, a: argparse.Namespace) -> None:
    shape = [v2.Resize(a.image_size, antialias=True), v2.CenterCrop(a.image_size), v2.PILToTensor()]
    folder = tv.ImageFolder(str(files), v2.Compose(shape))
    loader = torch.utils.data.DataLoader(folder, a.batch_size, shuffle=True, drop_last=True, num_workers=a.workers,
                                         persistent_workers=a.workers > 0)  # fmt: skip
    batches = Batches(data, a.batch_size, torch.Generator().manual_seed(0))
    # ten epochs of kit against one: what its thread has ready when the clock starts must not count
    kinds = {"kit, streamed": lambda: (next(batches) for _ in range(10 * batches.steps_per_epoch)), "torchvision": lambda: loader}
    for epoch in kinds.values():  # workers and the prefetch thread start, files come into the page cache
        rate(epoch)
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(a.repeats):
        for kind, epoch in kinds.items():
            rates[kind].append(rate(epoch))
    ratios = [ours / theirs for ours, theirs in zip(*rates.values(), strict=True)]
    for kind, values in rates.items():
        print(f"{kind:14} {statistics.median(values):9,.0f} images/s (median of {len(values)} measurements, "
              f"{min(values):,.0f} to {max(values):,.0f})")  # fmt: skip
    print(f"ratio          {statistics.median(ratios):9.1f} (median of {len(ratios)} pairs, {min(ratios):.1f} to {max(ratios):.1f}); "
          f"batches of {a.batch_size}, torchvision with {a.workers} workers")  # fmt: skip


if __name__ == "__main__":
    main()
