"""Does joint search pay, and is it ever worse? `joint` beside plain training and other searches, where images are few
and seen often, and where all of them are seen a few times. And DHA's order: joint, pairs,
sequential, architecture alone.

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
FEW_DIGITS = "digits", {"dataset": "digits", "train_images": 200, "epochs": 64}
FEW_FASHION = "Fashion-MNIST", {**FASHION, "train_images": 1000, "epochs": 100}
FEW_CIFAR = "CIFAR-10, 16 channels", {**CIFAR, "train_images": 1000}
MORE_CIFAR = "CIFAR-10, 16 channels", {**CIFAR, "train_images": 4000}
FEW = (  # title, values, seeds, a method, those it is compared with
    (*FEW_DIGITS, range(20), "joint", "plain,ista,seq-dha"),
    ("Fashion-MNIST", {**FASHION, "train_images": 1000, "epochs": 40}, range(5), "joint", "plain,ista,seq-dha"),
    (*FEW_FASHION, range(5, 15), "joint", "plain"),
    (*FEW_FASHION, range(5, 10), "joint", "ista,seq-dha"),
    (*FEW_CIFAR, range(5), "joint", "plain,ista,seq-dha"),
    (*MORE_CIFAR, range(5), "joint", "plain,ista,seq-dha"),
)
ORDER = (
    (*FEW_DIGITS, range(20), "dha", "seq-dha,ista"),
    (*FEW_DIGITS, range(5), "dha", "nas+da,nas+hpo"),
    (*FEW_DIGITS, range(20), "seq-dha", "ista"),
    (*FEW_FASHION, range(5, 10), "dha", "seq-dha,ista"),
    (*FEW_FASHION, range(5, 10), "seq-dha", "ista"),
    (*FEW_CIFAR, range(5), "dha", "seq-dha,ista"),
    (*FEW_CIFAR, range(5), "seq-dha", "ista"),
    (*MORE_CIFAR, range(5), "seq-dha", "ista"),
)
ALL = (
    ("digits", {"dataset": "digits", "epochs": 25}, range(5), "joint", "plain"),
    ("Fashion-MNIST", {**FASHION, "epochs": 2}, range(5), "joint", "plain"),
    ("CIFAR-10", {"dataset": "", "image_size": 16, "epochs": 2}, range(5), "joint", "plain"),
    ("elpv", {"dataset": "elpv", "image_size": 24, "epochs": 15}, range(5), "joint", "plain"),
)
TABLES = {"Few images, seen often": FEW, "All images, a short budget": ALL, "DHA's order, few images": ORDER}


def rows(settings: tuple, cifar: str, out: str, workers: int | None) -> list[list[str]]:
    """A row for each setting and comparison in it."""
    shown, tests = [], []
    for title, values, seeds, mine, others in settings:
        values = values | {"dataset": values["dataset"] or cifar, "out": out}
        accuracy = {}
        for method in (mine, *others.split(",")):
            result = sweep.run([kit.Config(**values, method=method, seed=seed) for seed in seeds], workers=workers)
            sweep.require_all(result)
            accuracy[method] = 100 * np.array([run.metrics["test_accuracy"] for run in result.runs])
        first, size = accuracy.pop(mine), values.get("image_size")
        images = f"{values.get('train_images') or 'all'}" + (f", {size}×{size}" if size else "")
        for method, second in accuracy.items():
            tests.append(scipy.stats.ttest_1samp(first - second, 0).pvalue)
            about = [title, images, str(values["epochs"]), f"`{mine}`", f"`{method}`", str(len(seeds))]
            shown.append([*about, f"{first.mean():.2f}", f"{second.mean():.2f}", estimated(first - second, "+.2f")])
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
    head = ["data", "images", "epochs", "one", "other", "n", "one, %", "other, %", "one − other [95%]", "p, Holm"]
    parts = ["# Does joint search pay?", f"Preset `laptop`. {' '.join(__doc__.split(chr(10) * 2)[-1].split())}"]
    for title, settings in TABLES.items():
        found = rows(settings, given.cifar, given.out, given.workers)
        parts += [f"## {title}", table(head, found)]
    text = "\n\n".join(parts) + "\n"
    print(text)
    if given.write:
        files.write(Path(given.write) / "joint.md", text)


if __name__ == "__main__":
    main()
