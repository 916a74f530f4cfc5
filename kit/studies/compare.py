"""Runs side by side: one table, Pareto fronts of test accuracy against cost, and how much architectures agree."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from kit.errors import KitError
from kit.run.run import Run
from kit.studies import tables

SAME = ["data", "split", "budget"]  # within these accuracies are comparable
FRONTS = {"seconds": [*SAME, "machine"], "params": SAME, "macs": SAME}
RULE = "Accuracies compare within one data, split and budget, seconds on one machine as well: no front spans two."


class Comparison(NamedTuple):
    """table: one row per finished run: the columns of `tables.per_run`, run, what it was made under (data … commit) and
    front_seconds, front_params, front_macs (bool: no comparable run reaches as much for less). agreement: run × run,
    the share of choices that two architectures have in common. notes: what is the same in all runs, what differs."""

    table: pd.DataFrame
    agreement: pd.DataFrame
    notes: list[str]


def compare(runs: str | Path | Sequence[Run | str | Path], dataset: str = "") -> Comparison:
    """Put runs side by side; those that are not finished or cannot be read are named in the notes.

    runs: a folder of run directories, paths with commas, or a list. dataset: only the runs on it ("": all). Raises
    KitError when nothing is left to compare."""
    paths, found, aside = [], {}, []
    for entry in str(runs).split(",") if isinstance(runs, (str, Path)) else runs:
        path = entry.path if isinstance(entry, Run) else Path(str(entry).strip()).expanduser()
        paths += sorted(p.parent for p in path.glob("*/config.json")) or [path]
    for path in dict.fromkeys(path.resolve() for path in paths):
        try:
            run = Run.load(path)
            if dataset in ("", run.config.dataset):
                found[run] = _circumstances(run)
        except KitError as error:
            aside.append(f"Left out: {error}.")
    if not found:
        raise KitError(f"no finished runs to compare in {runs} (dataset={dataset!r}): kit.search makes one. {aside}")
    circumstances = pd.DataFrame(found.values(), index=pd.Index([run.path.name for run in found], name="run"))
    table = tables.per_run(found).join(circumstances.reset_index())
    for cost, within in FRONTS.items():
        table[f"front_{cost}"] = pd.concat([pareto(group, cost) for _, group in table.groupby(within)])
    chosen = [choices(run) for run in found]
    shares = [[len(a & b) / (max(len(a), len(b)) or np.nan) for b in chosen] for a in chosen]
    agreement = pd.DataFrame(shares, circumstances.index, circumstances.index)
    return Comparison(table, agreement, [*_notes(circumstances), *aside])


def _circumstances(run: Run) -> dict[str, str]:
    if not run.finished:
        raise KitError(f"{run.path.name} is not finished ({run.status})")
    config, place = run.config, run.provenance
    size = "×".join(map(str, run.found()["network"]["image"][1:]))
    limit = f" of {config.train_images} images" if config.train_images else ""
    return {
        "data": f"{config.dataset} {size}, {run.metrics['test_images']} test images",
        "budget": f"{config.epochs} epochs{limit}",
        "machine": f"{place['device']}, {place['processor']}, {place['threads']} thread(s)",
        "space": config.space,
        "network": f"{config.channels} channels, {config.cells} cells",
        **{name: str(place[name]) for name in ("split", "trained_on", "commit")},
    }


def pareto(rows: pd.DataFrame, cost: str) -> pd.Series:
    """bool by row: True where no other costs no more and has no less test accuracy, with one of the two better."""
    costs, gains = rows[cost].to_numpy(), rows["test_accuracy"].to_numpy()
    no_worse = (costs[:, None] <= costs) & (gains[:, None] >= gains)  # [other, one]
    better = (costs[:, None] < costs) | (gains[:, None] > gains)
    return pd.Series(~np.any(no_worse & better, axis=0), rows.index)


def choices(run: Run) -> set[str]:
    """What an architecture chose, place by place; empty for a fixed network."""
    found = set()
    for kind, places in run.genotype.items():
        for i, place in enumerate(places if isinstance(places, list) else ()):
            found |= {f"{run.config.space}/{kind}/{i}/{one}" for one in (place if isinstance(place, list) else [place])}
    return found


def _notes(circumstances: pd.DataFrame) -> list[str]:
    same, notes = [], []
    for name, values in circumstances.items():
        counts = values.value_counts(sort=False)
        if len(counts) == 1:
            same.append(f"{name}: {counts.index[0]}")
        else:
            notes.append(f"Different {name}: {'; '.join(f'{value} ({n} runs)' for value, n in counts.items())}.")
    return [f"The same in all runs: {'; '.join(same)}.", *notes, *([RULE] if notes else [])]
