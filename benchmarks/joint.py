"""Does joint search pay, and is it ever worse? `joint` beside plain training and other searches, where images are few
and seen often, and where all of them are seen a few times.

    python benchmarks/joint.py DIR/cifar10-jpeg --write reports

Differences of test accuracy are in points, paired by seed, with Student's 95% interval; p, of the paired t-test, is
adjusted by Holm over the table. No seed here chose a setting.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import scipy
from common import estimated, table

import kit
from kit import files
from kit.lab import sweep
from kit.studies.tables import holm

CIFAR = {"dataset": "", "image_size": 16, "channels": 16, "epochs": 100}
FASHION = {"dataset": "fashion_mnist", "image_size": 14}
FEW = (
    ("digits", {"dataset": "digits", "train_images": 200, "epochs": 64}, range(20), "plain,ista,seq-dha"),
    ("Fashion-MNIST", {**FASHION, "train_images": 1000, "epochs": 40}, range(5), "plain,ista,seq-dha"),
    ("Fashion-MNIST", {**FASHION, "train_images": 1000, "epochs": 100}, range(5, 15), "plain"),
    ("CIFAR-10, 16 channels", {**CIFAR, "train_images": 1000}, range(5), "plain"),
    ("CIFAR-10, 16 channels", {**CIFAR, "train_images": 4000}, range(5), "plain"),
)
ALL = (
    ("digits", {"dataset": "digits", "epochs": 25}, range(5), "plain"),
    ("Fashion-MNIST", {**FASHION, "epochs": 2}, range(5), "plain"),
    ("CIFAR-10", {"dataset": "", "image_size": 16, "epochs": 2}, range(5), "plain"),
    ("elpv", {"dataset": "elpv", "image_size": 24, "epochs": 15}, range(5), "plain"),
)


def rows(settings: tuple, cifar: str, out: str, workers: int | None) -> list[list[str]]:
    """A row for each setting and method that `joint` is compared with."""
    shown, tests = [], []
    for title, values, seeds, methods in settings:
        values = values | {"dataset": values["dataset"] or cifar, "out": out}
        accuracy = {}
        for method in ("joint", *methods.split(",")):
            result = sweep.run([kit.Config(**values, method=method, seed=seed) for seed in seeds], workers=workers)
            sweep.require_all(result)
            accuracy[method] = 100 * np.array([run.metrics["test_accuracy"] for run in result.runs])
        mine, size = accuracy.pop("joint"), values.get("image_size")
        images = f"{values.get('train_images') or 'all'}" + (f", {size}×{size}" if size else "")
        for method, others in accuracy.items():
            tests.append(scipy.stats.ttest_1samp(mine - others, 0).pvalue)
            counts = [str(values["epochs"]), f"`{method}`", str(len(seeds))]
            scores = [f"{mine.mean():.2f}", f"{others.mean():.2f}", estimated(mine - others, "+.2f")]
            shown.append([title, images, *counts, *scores])
            print(*shown[-1], flush=True)
    adjusted = holm(pd.Series(tests))
    return [[*row, "< 0.001" if p < 0.001 else f"{p:.3f}"] for row, p in zip(shown, adjusted, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", help="the folder with CIFAR-10's images, or cifar10")
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--out", default="runs")
    parser.add_argument("--write", help="folder of the report joint.md")
    given = parser.parse_args()
    head = ["data", "images", "epochs", "other", "n", "`joint`, %", "other, %", "`joint` − other [95%]", "p, Holm"]
    parts = ["# Does joint search pay?", f"Preset `laptop`. {' '.join(__doc__.split(chr(10) * 2)[-1].split())}"]
    for title, settings in (("Few images, seen often", FEW), ("All images, a short budget", ALL)):
        found = rows(settings, given.cifar, given.out, given.workers)
        parts += [f"## {title}", table(head, found)]
    text = "\n\n".join(parts) + "\n"
    print(text)
    if given.write:
        files.write(Path(given.write) / "joint.md", text)


if __name__ == "__main__":
    main()
