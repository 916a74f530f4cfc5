"""Is a found architecture the data's, or the seed's? Searches the same data with different seeds, and different data
with the same seed, and compares what was found, for each learner of architectures.

    python benchmarks/agreement.py digits fashion_mnist DIR/cifar10-jpeg --image-size 8,14,16 --write reports

Agreement is the share of a slot's picked candidates that two runs have in common, mean over the slots. The interval is
Student's over the seeds, each left out in turn (jackknife), for every pair of runs shares one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import combinations, product
from pathlib import Path

import numpy as np
import scipy
from common import sizes, table

import kit
from kit import files
from kit.lab import sweep

METHODS = "ista,dha,joint,dsnas,daas,gdas,autohas,darts,snas"
Found = dict[tuple[str, int], dict]  # genotypes by data set and seed


def slots(genotype: dict) -> list[list]:
    """The candidates picked in each slot: a cell's node has several, a block of a chain one."""
    return [slot if isinstance(slot, list) else [slot] for part in genotype.values() for slot in part]


def agreement(one: dict, other: dict) -> float:
    """Of two genotypes of one space, from 0 to 1."""
    pairs = zip(slots(one), slots(other), strict=True)
    return float(np.mean([sum(pick in others for pick in picks) / max(1, len(picks)) for picks, others in pairs]))


def means(found: Found, seeds: Sequence[int]) -> tuple[float, float]:
    """Of the same data with different seeds, and of different data with the same seed."""
    sets = list(dict.fromkeys(name for name, _ in found))
    data = [agreement(found[name, a], found[name, b]) for name in sets for a, b in combinations(seeds, 2)]
    seed = [agreement(found[a, s], found[b, s]) for s in seeds for a, b in combinations(sets, 2)]
    return float(np.mean(data)), float(np.mean(seed))


def jackknife(statistic: Callable[[Sequence[int]], float], seeds: Sequence[int]) -> tuple[float, float]:
    """The statistic over all seeds, and half of its 95% interval."""
    whole, n = statistic(seeds), len(seeds)
    without = [statistic([seed for seed in seeds if seed != left]) for left in seeds]
    error = (n - 1) / np.sqrt(n) * np.std(without, ddof=1)
    return whole, float(scipy.stats.t.ppf(0.975, n - 1) * error)


def row(method: str, found: Found) -> list[str]:
    seeds = sorted({seed for _, seed in found})
    data, seed = means(found, seeds)
    difference, half = jackknife(lambda few: float(np.subtract(*means(found, few))), seeds)
    verdict = "the data's" if difference > half else "the seed's" if difference < -half else "not told apart"
    shown = f"{100 * difference:+.1f} [{100 * (difference - half):+.1f}, {100 * (difference + half):+.1f}]"
    return [f"`{method}`", str(len(seeds)), f"{100 * data:.1f}", f"{100 * seed:.1f}", shown, verdict]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", help="names or folders, two or more")
    parser.add_argument("--image-size", default="", help="a number for each data set, with commas")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--seeds", type=int, default=5, help="how many, three or more")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=20, help="of the search")
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--out", default="runs")
    parser.add_argument("--write", help="folder of the report agreement.md")
    given = parser.parse_args()
    size_of = sizes(given.image_size, given.datasets)
    common = {"train_images": given.images, "epochs": given.epochs + 1, "search_epochs": given.epochs, "out": given.out}
    rows = []
    for method in given.methods.split(","):
        keys = list(product(given.datasets, range(given.seeds)))
        configs = [
            kit.Config(**common, dataset=name, image_size=size_of[name], method=method, seed=seed)
            for name, seed in keys
        ]
        result = sweep.run(configs, workers=given.workers)
        sweep.require_all(result)
        rows.append(row(method, {key: run.genotype for key, run in zip(keys, result.runs, strict=True)}))
        print(*rows[-1], flush=True)
    head = ["method", "seeds", "same data, %", "same seed, %", "difference [95%]", "what was found is"]
    names = ", ".join(Path(name).name + (f" at {size}×{size}" if size else "") for name, size in size_of.items())
    note = f"{given.images} images of each of {names}; {given.epochs} epochs of search, preset `laptop`."
    text = (
        f"# Whose architectures are they?\n\n{note} {__doc__.split(chr(10) * 2)[-1].strip()}\n\n{table(head, rows)}\n"
    )
    print(text)
    if given.write:
        files.write(Path(given.write) / "agreement.md", text)


if __name__ == "__main__":
    main()
