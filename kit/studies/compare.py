"""Runs side by side: one table, Pareto fronts of test accuracy against cost, and how much architectures agree."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import itables
import numpy as np
import pandas as pd
from itables.javascript import generate_init_offline_itables_html
from markupsafe import Markup

from kit import figures
from kit.errors import KitError
from kit.run.run import Run
from kit.studies import render, tables

NOTE = (
    "Test accuracy is reported, nothing is selected by it: a front describes these runs, and a single run can be on it "
    "by the luck of its seed. To choose one, use validation accuracy."
)
# cost → the columns in which runs must agree to stand on one front
SAME = ["data", "split", "budget"]
FRONTS = {"seconds": [*SAME, "machine"], "params": SAME, "macs": SAME}
# what runs may differ in, and what follows where they do
ASPECTS = {
    "data": "accuracy is not comparable between them, and multiply-adds are of other images",
    "split": "accuracy is of other images",
    "budget": "accuracy and seconds differ by budget as well as by method: no front spans two",
    "machine": "seconds are not comparable between them: no front over seconds spans two",
    "space": "accuracy and costs are comparable, architectures within one space only",
    "network": "accuracy and costs differ by size as well as by cell",
    "trained_on": "a method that reads validation data has fewer images to train on",
    "commit": "the code differs",
}
SHOWN = ["run", "data", "space", "method", "seed", "test_accuracy", "val_accuracy", *tables.COSTS]
SHOWN += [f"front_{cost}" for cost in FRONTS]


@dataclass(frozen=True)
class Comparison:
    """Finished runs, and what can be said about them together. In a notebook it is a table that sorts and filters.

    table: one row per run: the columns of `tables.per_run`, run, space, the columns of ASPECTS, and front_seconds,
    front_params, front_macs (bool). agreement: one row per two runs of one space: run, other, and of how many choices
    their architectures share how many (of, shared). notes: what is comparable and what is not, in sentences.
    """

    table: pd.DataFrame
    agreement: pd.DataFrame
    notes: list[str]

    def html(self) -> Markup:
        """The table that sorts and filters, and the notes; no network, no file beside it."""
        shown = self.table[SHOWN].round({"test_accuracy": 4, "val_accuracy": 4, "seconds": 1, "memory_mb": 0})
        look = {"paging": False, "maxBytes": 0, "layout": {"top1": "searchBuilder"}, "connected": False}
        table = itables.to_html_datatable(shown, showIndex=False, text_in_header_can_be_selected=False, **look)
        notes = Markup("").join(Markup("<li>{}</li>").format(note) for note in self.notes)
        scripts = generate_init_offline_itables_html(itables.options.dt_bundle)
        return Markup(scripts + table) + Markup("<ul>{}</ul>").format(notes)

    def save(self, folder: str | Path) -> Path:
        """Write compare.csv and compare.html (self-contained, interactive) to a folder; returns the latter's path."""
        drawn = [figures.tradeoffs(self.table), figures.agreement(self.agreement, self.table)]
        render.write_text(Path(folder) / "compare.csv", self.table.to_csv(index=False))
        page = render.page(f"{len(self.table)} runs compared", self.html(), *drawn)
        return render.write_text(Path(folder) / "compare.html", page)

    def _repr_html_(self) -> str:
        return self.html()


def compare(runs: str | Path | Sequence[Run | str | Path], dataset: str = "") -> Comparison:
    """Put runs side by side; those that are not finished or cannot be read are named in the notes.

    runs: a folder of run directories, paths with commas between them, or a list of runs and paths. dataset: only the
    runs on it ("": all). Raises KitError when nothing is left to compare.
    """
    found, rows, aside = [], [], []
    for path in _paths(runs):
        try:
            run = Run.load(path)
            if dataset in ("", run.config.dataset):
                rows.append(_row(run))
                found.append(run)
        except KitError as error:
            aside.append(f"Left out: {error}.")
    if not found:
        where = f" on dataset {dataset!r}" if dataset else ""
        raise KitError(
            f"no finished runs{where} to compare: give a folder of runs, such as compare('runs'); kit.search("
            f"kit.Config(...)) makes one. {' '.join(aside)}"
        )
    table = tables.per_run(found).join(pd.DataFrame(rows))
    for cost, within in FRONTS.items():
        table[f"front_{cost}"] = False
        for _, group in table.groupby(within, dropna=False):
            table.loc[group.index, f"front_{cost}"] = pareto(group[cost], group["test_accuracy"])
    return Comparison(table, _agreement(found, table), [*_notes(table), *aside, NOTE])


def _paths(runs: str | Path | Sequence[Run | str | Path]) -> list[Path]:
    """The run directories meant, each once."""
    if isinstance(runs, str) and not Path(runs).is_dir():
        runs = [part.strip() for part in runs.split(",") if part.strip()]
    found = []
    for entry in [runs] if isinstance(runs, (str, Path)) else runs:
        path = entry.path if isinstance(entry, Run) else Path(entry).expanduser()
        found += sorted(p.parent for p in path.glob("*/config.json")) or [path]
    return list(dict.fromkeys(path.resolve() for path in found))


def _row(run: Run) -> dict[str, str]:
    if not run.finished:
        raise KitError(f"{run.path.name} is not finished ({run.status})")
    config, place = run.config, run.provenance
    size = "×".join(map(str, run.found()["network"]["image"][1:]))
    limit = f" of {config.train_images} images" if config.train_images else ""
    return {
        "run": run.path.name,
        "data": f"{config.dataset} {size}, {run.metrics['test_images']} test images",
        "split": place["split"],
        "budget": f"{config.epochs} epochs{limit}",
        "machine": f"{place['device']}, {place['processor']}, {place['threads']} thread(s)",
        "space": config.space,
        "network": f"{config.channels} channels, {config.cells} cells",
        "trained_on": place["trained_on"],
        "commit": str(place["commit"]),
    }


def pareto(cost: Sequence[float], gain: Sequence[float]) -> np.ndarray:
    """bool [N]: True where no other costs no more and gains no less, with one of the two strictly better."""
    cost, gain = np.asarray(cost), np.asarray(gain)
    no_worse = (cost[:, None] <= cost) & (gain[:, None] >= gain)  # [other, one]
    better = (cost[:, None] < cost) | (gain[:, None] > gain)
    return ~(no_worse & better).any(axis=0)


def choices(genotype: dict) -> set[str]:
    """What a genotype chose, place by place; empty for a fixed network."""
    places = {
        f"{kind} {i}": place for kind, of in genotype.items() if isinstance(of, list) for i, place in enumerate(of)
    }
    return {
        f"{name} {one}" for name, place in places.items() for one in (place if isinstance(place, list) else [place])
    }


def _agreement(runs: Sequence[Run], table: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (i, a), (j, b) in itertools.combinations(enumerate(choices(run.genotype) for run in runs), 2):
        if a and b and table["space"][i] == table["space"][j]:
            rows.append((table["run"][i], table["run"][j], len(a & b), max(len(a), len(b))))
    return pd.DataFrame(rows, columns=["run", "other", "shared", "of"])


def _notes(table: pd.DataFrame) -> list[str]:
    same, different = [], []
    for column, consequence in ASPECTS.items():
        counts = table[column].value_counts(sort=False)
        values = "; ".join(f"{value} ({n} runs)" for value, n in counts.items())
        if len(counts) > 1:
            different.append(f"Different {column}: {values}: {consequence}.")
        else:
            same.append(f"{column}: {counts.index[0]}")
    return [f"The same in all runs: {'; '.join(same)}.", *different]
