"""Any runs in one table: what each came to, in which fields they differ, which are the best for their cost, and how
much each field decides."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kit import files
from kit.errors import KitError
from kit.run.run import Run
from kit.studies import tables

SAME = ["data", "split", "budget"]  # within these accuracies are comparable
FRONTS = {"seconds": [*SAME, "machine"], "params": SAME, "macs": SAME}
RULE = "Accuracies compare within one data, split and budget, seconds on one machine as well: no front spans two."
HIDDEN = ["out", "root", "device", "plugins"]  # fields that decide nothing


def browse(runs: str | Path | Sequence[Any], dataset: str = "") -> tuple[pd.DataFrame, list[str]]:
    """A row per run, the best first: run, path, status, every field of the configuration in which the runs differ, the
    columns of `tables.per_run`, what a finished one was made under (data … commit), and front_… of each cost (bool: no
    comparable run reaches as much for less). attrs["fields"]: the fields, without those that the method decides. And
    notes: what is the same in all, what differs, what was left out. runs: a folder of run directories, paths with
    commas, or a list. Raises KitError where there are none."""
    paths, rows, fields, aside = [], [], [], []
    for entry in str(runs).split(",") if isinstance(runs, (str, Path)) else runs:
        path = entry.path if isinstance(entry, Run) else files.place(str(entry).strip())
        paths += sorted(p.parent for p in path.glob("*/config.json")) or [path]
    for path in dict.fromkeys(path.resolve() for path in paths):
        try:
            run = Run.load(path)
            if dataset in ("", run.config.dataset):
                came_to = tables.one(run) | _circumstances(run) if run.finished else {"test_accuracy": np.nan}
                rows.append({"run": run.path.name, "path": str(run.path), "status": run.status} | came_to)
                fields.append(run.config.model_dump())
        except KitError as error:
            aside.append(f"Left out: {error}.")
    if not rows:
        raise KitError(f"no runs to browse in {runs} (dataset={dataset!r}): kit.search makes one. {aside}")
    every = pd.DataFrame(fields).drop(columns=HIDDEN)
    differ = [name for name, values in every.items() if values.astype(str).nunique() > 1]
    given = pd.DataFrame(rows).drop(columns=differ, errors="ignore")
    table = pd.concat([given.iloc[:, :3], every[differ], given.iloc[:, 3:]], axis=1)
    table, notes = _with_fronts(table) if "data" in table else (table, [])
    table = table.sort_values("test_accuracy", ascending=False, ignore_index=True)
    of_method = every[differ].astype(str).groupby("method").nunique().max() == 1 if "method" in differ else {}
    table.attrs["fields"] = [name for name in differ if name == "method" or not of_method.get(name, False)]
    return table, notes + aside


def _with_fronts(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    for cost, within in FRONTS.items():
        fronts = pd.concat([pareto(group, cost) for _, group in table.groupby(within)])
        table[f"front_{cost}"] = fronts.reindex(table.index, fill_value=False)
    counts = [(name, values.value_counts(sort=False)) for name, values in table.loc[:, "data":"commit"].items()]
    notes = [f"The same in all runs: {'; '.join(f'{name}: {n.index[0]}' for name, n in counts if len(n) == 1)}."]
    differ = [(name, "; ".join(f"{value} ({k} runs)" for value, k in n.items())) for name, n in counts if len(n) > 1]
    return table, notes + [f"Different {name}: {found}." for name, found in differ] + [RULE] * bool(differ)


def _circumstances(run: Run) -> dict[str, str]:
    config, place = run.config, run.provenance
    size = "×".join(map(str, run.found()["network"]["image"][1:]))
    limit = f" of {config.train_images} images" if config.train_images else ""
    return {
        "data": f"{config.dataset} {size}, {run.metrics['test_images']} test images",
        "budget": f"{config.epochs} epochs{limit}",
        "machine": f"{place['device']}, {place['processor']}, {place['threads']} thread(s)",
        **{name: str(place[name]) for name in ("split", "trained_on", "commit")},
    }


def pareto(rows: pd.DataFrame, cost: str) -> pd.Series:
    """bool by row: True where no other costs no more and has no less test accuracy, with one of the two better."""
    costs, gains = rows[cost].to_numpy(), rows["test_accuracy"].to_numpy()
    no_worse = (costs[:, None] <= costs) & (gains[:, None] >= gains)  # [other, one]
    better = (costs[:, None] < costs) | (gains[:, None] > gains)
    return pd.Series(~np.any(no_worse & better, axis=0), rows.index)


def importance(table: pd.DataFrame) -> pd.Series:
    """How much of the variation in test accuracy each field of `browse` explains in these runs, largest first and one
    in sum: fANOVA (Hutter et al. 2014) as Optuna has it. It describes the runs there are, and no cause."""
    import optuna  # takes a second

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    known = table.dropna(subset="test_accuracy")
    values = known[table.attrs["fields"]].astype(str)
    values = values.loc[:, values.nunique() > 1]
    if len(known) < 4 or values.empty:
        given = f"got {len(known)} in {list(values)}"
        raise KitError(f"importance needs four finished runs that differ in a field, {given}")
    choices = {name: optuna.distributions.CategoricalDistribution(sorted(set(of))) for name, of in values.items()}
    study = optuna.create_study(direction="maximize")
    for chosen, accuracy in zip(values.to_dict("records"), known["test_accuracy"]):
        study.add_trial(optuna.create_trial(params=chosen, distributions=choices, value=accuracy))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return pd.Series(optuna.importance.get_param_importances(study, evaluator=evaluator))


def pooled(table: pd.DataFrame) -> pd.DataFrame:
    """`tables.grouped` of the finished runs of `browse`, by data set, method and every other field but the seed in
    which they differ, and their mean seconds: a run is pooled with its like alone."""
    known = table[table["status"] == "finished"]
    by = ["dataset", "method", *(name for name in table.attrs["fields"] if name not in ("dataset", "method", "seed"))]
    return tables.grouped(known.astype(dict.fromkeys(by, str)), by, seconds=("seconds", "mean"))
