"""Does a learned learning rate stop where it helps? A network of given cells is trained at fixed rates; then each
gradient learner of η starts at the best of them, and ten times too low and too high. So does `nas+hpo`, which searches
cells as well; its fixed rate is `ista`'s.

    python benchmarks/rates.py digits fashion_mnist DIR/cifar10-jpeg --image-size 8,14,16 --write reports

Accuracies are of test images, which choose no preset here; the best fixed rate, chosen by them, is flattered by it. All
runs of plain training hold the same validation images out. Intervals are Student's over the seeds, paired.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from common import estimated, sizes, table

import kit
from kit import files
from kit.lab import sweep

GRID = (0.01, 0.03, 0.1, 0.3, 1.0)
PLAIN = {"method": "plain", "hold_out": True, "hyper": "fixed"}
LEARNERS = {  # what starts there, and the same with a fixed rate
    **{name: (PLAIN | {"hyper": name, "hyper_moves": "lr"}, PLAIN) for name in ("lookahead", "fresh", "validation")},
    "validation, 1 step of 10": (PLAIN | {"hyper": "validation", "hyper_moves": "lr", "hyper_every": 10}, PLAIN),
    "nas+hpo": ({"method": "nas+hpo", "hyper_moves": "lr"}, {"method": "ista"}),
}
MORE = {"nas+hpo": 4}  # times as many seeds, for with each one the cells differ
FACTORS = (0.1, 1.0, 10.0)  # of the grid's best


def finished(values: dict[str, Any], seeds: int, workers: int | None) -> list[kit.Run]:
    result = sweep.run([kit.Config(**values, seed=seed) for seed in range(seeds)], workers=workers)
    sweep.require_all(result)
    return result.runs


def accuracy(runs: list[kit.Run]) -> np.ndarray:
    return 100 * np.array([run.metrics["test_accuracy"] for run in runs])


def rows(values: dict[str, Any], title: str, seeds: int, workers: int | None) -> tuple[str, list[list[str]]]:
    """A sentence about the fixed rates, and a row for each learner and start."""
    run = lambda more, lr, n=seeds: finished(values | more | {"lr": lr}, n, workers)
    at = {lr: accuracy(run(PLAIN, lr)) for lr in GRID}
    best = max(GRID, key=lambda lr: at[lr].mean())
    about = f"{title}: " + ", ".join(f"{lr:g}: {found.mean():.2f}" for lr, found in at.items()) + f"; best {best:g}."
    found = []
    for factor, (name, (learned, fixed)) in product(FACTORS, LEARNERS.items()):
        lr, n = round(best * factor, 6), seeds * MORE.get(name, 1)
        runs = run(learned, lr, n)
        ends = np.array([run.hyper["lr"] for run in runs])
        far = np.exp(np.abs(np.log(ends / best)))  # times too low or too high
        apart = [estimated(accuracy(runs) - accuracy(run(fixed, start, n)), "+.2f") for start in (lr, best)]
        where = [f"{lr:g}", f"{np.exp(np.log(ends).mean()):.3g}", f"{far.mean():.1f}"]
        found.append([title, name, str(n), *where, *apart])
        print(*found[-1], flush=True)
    return about, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", help="names or folders")
    parser.add_argument("--image-size", default="", help="a number for each data set, with commas")
    parser.add_argument("--images", type=int, default=1000, help="of each data set to train on, held-out ones included")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--out", default="runs")
    parser.add_argument("--write", help="folder of the report rates.md")
    given = parser.parse_args()
    sentences, cells = [], []
    for name, size in sizes(given.image_size, given.datasets).items():
        values = {"dataset": name, "image_size": size, "train_images": given.images, "epochs": given.epochs}
        values["out"] = given.out
        title = Path(name).name + (f", {size}×{size}" if size else "")
        about, found = rows(values, title, given.seeds, given.workers)
        sentences.append(about)
        cells += found
    head = ["data", "learner", "n", "starts at", "ends at", "times off the best", "to its start, fixed [95%]"]
    head.append("to the best, fixed [95%]")
    note = f"Preset `laptop`, {given.images} images, {given.epochs} epochs; fixed rates over {given.seeds} seeds. "
    note += __doc__.split("\n\n")[-1].strip()
    fixed = "Accuracy in percent at fixed rates. " + " ".join(sentences)
    text = f"# Where learned rates end\n\n{note}\n\n{fixed}\n\n{table(head, cells)}\n"
    print(text)
    if given.write:
        files.write(Path(given.write) / "rates.md", text)


if __name__ == "__main__":
    main()
