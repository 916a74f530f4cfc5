"""Every row of kit and its zoo on one data set at one budget, beside the average random child of its own space.

    python benchmarks/every_method.py DIR/cifar10-jpeg --image-size 16 --write reports

Beside the accuracy: the difference to the random children of the same seeds and space, divided by their mean (Yang,
Esperança and Carlucci 2020), which is what a search is worth beyond training. What retrains has the epochs for it that
its search leaves; a random child has all of them. Intervals are Student's over the seeds. No number here chose a
setting.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from common import estimated, table

import kit
from kit import files
from kit.lab import sweep
from kit.methods import METHODS

METHOD_ROWS = {
    "jointly": "dha,joint,diffautoml,daas,autohas",
    "α": "ista,dsnas,darts,gdas,snas,pc-darts,p-darts,enas,manas,spos,nsga-net,random-shared",
    "τ": "daas-da,fast-autoaugment,pba,dada,adversarial-autoaugment",
    "η": "autohas-hpo,hgd,ift,pbt,random-search,bayesian,asha,hyperband",
    "no search": "plain",
}
SPACES = ("cell", "choice", "mobile")


def rows(runs: list[kit.Run]) -> list[list[str]]:
    """A row for each method, and first those of the random children."""
    accuracy, seconds = defaultdict(dict), defaultdict(list)
    for run in runs:
        key = (
            run.config.method,
            run.config.space.replace("partial-", ""),
        )  # what PC-DARTS searches, and finds for, are cells
        accuracy[key][run.config.seed] = 100 * run.metrics["test_accuracy"]
        seconds[key].append(run.metrics["seconds"])
    kinds = {name: kind for kind, names in METHOD_ROWS.items() for name in names.split(",")}
    found = []
    for (name, space), by_seed in accuracy.items():
        seeds = sorted(by_seed)
        mine, random = (np.array([of[seed] for seed in seeds]) for of in (by_seed, accuracy["random", space]))
        relative = "–" if name == "random" else estimated(100 * (mine - random) / random.mean(), "+.1f")
        spent = f"{np.mean(seconds[name, space]):.0f}"
        title = METHODS[name].title.split(":")[0] if name != "random" else "random child"
        what = [kinds.get(name, "chance"), f"`{name}`", title, space]
        found.append([*what, str(len(seeds)), estimated(mine, ".1f"), relative, spent])
    order = ["chance", *reversed(METHOD_ROWS)]
    return sorted(found, key=lambda row: (order.index(row[0]), row[3]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="a name or a folder")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--search-epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--out", default="runs")
    parser.add_argument("--write", help="folder of the report every-method-<data set>.md")
    given = parser.parse_args()
    common = {"dataset": given.dataset, "image_size": given.image_size, "train_images": given.images, "out": given.out}
    common |= {"epochs": given.epochs, "search_epochs": given.search_epochs}
    methods = [{"method": name} for names in METHOD_ROWS.values() for name in names.split(",")]
    chance = [{"method": "random", "space": space} for space in SPACES]
    configs = [kit.Config(**common, **row, seed=seed) for row in [*chance, *methods] for seed in range(given.seeds)]
    result = sweep.run(configs, workers=given.workers)
    sweep.require_all(result)
    size = f", {given.image_size}×{given.image_size} pixels" if given.image_size else ""
    budget = f"{given.epochs} epochs in all, of which {given.search_epochs} of search at most"
    note = f"{given.images} images{size}, preset `laptop`, {budget}; {given.seeds} seeds, test images. "
    note += __doc__.split("\n\n")[-1].strip()
    head = [
        "searches",
        "method",
        "title",
        "space",
        "n",
        "accuracy, % [95%]",
        "to the average random child, % [95%]",
        "s",
    ]
    name = Path(given.dataset).name
    note = " ".join(note.split())
    text = f"# Every method at one budget: {name}\n\n{note}\n\n{table(head, rows(result.runs))}\n"
    print(text)
    if given.write:
        files.write(Path(given.write) / f"every-method-{name}.md", text)


if __name__ == "__main__":
    main()
