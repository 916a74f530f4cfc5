"""Runs side by side: one table, Pareto fronts of test accuracy against cost, how much architectures agree, and what of
it is comparable.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kit import figures
from kit.errors import KitError
from kit.figures.many import COSTS
from kit.methods import METHODS
from kit.run import store
from kit.run.known import Known, opened
from kit.run.run import Run
from kit.space.cell import cell_slots
from kit.studies.markup import Cell, Picture, Raw, document, sortable, text

NOTE = (
    "Test accuracy is reported, nothing is selected by it: a front describes these runs, and a single run can be on it by the luck of its seed. "
    "To choose one, use validation accuracy."
)

# what two runs may differ in: the table's column, its name, and what follows when it differs
ASPECTS = (
    (
        "data",
        "data",
        "accuracy is not comparable between them, and multiply-adds are of other images: each has panels and fronts of its own",
    ),
    ("budget", "budget", "accuracy and seconds differ by budget as well as by method: no front spans two"),
    ("machine", "machine", "seconds are not comparable between them: no front over seconds spans two"),
    (
        "space",
        "search space",
        "accuracy, parameters and multiply-adds are comparable, architectures within one space only",
    ),
    (
        "network",
        "network size",
        "cells are comparable; accuracy, parameters and multiply-adds differ by size as well as by cell",
    ),
    ("trained_on", "training part", "a method that reads validation data has fewer images to train on"),
    ("commit", "commit", "the code differs"),
)

# the table as it is shown: column, heading, unit factor, format
SHOWN = (
    ("run", "run", None, ""),
    ("data", "data", None, ""),
    ("space", "space", None, ""),
    ("method", "method", None, ""),
    ("seed", "seed", 1, ".0f"),
    ("status", "status", None, ""),
    ("done", "epochs", 1, ".0f"),
    ("epochs", "of", 1, ".0f"),
    ("test_accuracy", "test accuracy, %", 100, ".2f"),
    ("fronts", "on the front of", None, ""),
    ("val_accuracy", "validation accuracy, %", 100, ".2f"),
    ("seconds", "seconds", 1, ",.0f"),
    ("params", "parameters", 1, ",.0f"),
    ("macs", "multiply-adds", 1, ",.0f"),
    ("memory_mb", "memory, MB", 1, ",.0f"),
    ("remark", "remark", None, ""),
)
NUMBERS = [name for name, _, factor, _ in SHOWN if factor] + ["test_images"]
IF_DIFFERENT = (
    "data",
    "space",
    "epochs",
)  # columns that are shown where they tell runs apart; the notes name what is the same


@dataclass(frozen=True)
class Comparison:
    """Runs, and what can be said about them together. In a notebook it is a table that sorts and filters.

    table: one row per run, finished or not: the columns of SHOWN, and dataset, size, split, test_images, title, budget,
    machine, network,
    trained_on, commit, path, and front_seconds, front_params, front_macs (bool). Accuracies in [0, 1]; unknown values
    are NaN or None.
    agreement: one row per two runs of one space: run, other, space, found (by a search or a draw, neither was given),
    shared and
    shared_inputs (None where choices have none), of. notes: what is comparable and what is not, in sentences.
    """

    runs: list[Run]
    table: pd.DataFrame
    agreement: pd.DataFrame
    notes: list[str]

    def markdown(self) -> str:
        """Table and notes."""
        columns, records = self._shown()
        lines = ["| " + " | ".join(heading for _, heading, _, _ in columns) + " |", "|" + "---|" * len(columns)]
        for row in records:
            cells = (_cell(row[name], factor, form).shown or "–" for name, _, factor, form in columns)
            lines.append("| " + " | ".join(re.sub(r"\s+", " ", cell).replace("|", "\\|") for cell in cells) + " |")
        return "\n".join(lines) + "\n\n" + "\n".join(f"- {note}" for note in self.notes) + "\n"

    def html(self) -> Raw:
        """The table that sorts and filters, and the notes; no network, no file beside it."""
        columns, records = self._shown()
        rows = [[_cell(row[name], factor, form) for name, _, factor, form in columns] for row in records]
        return Raw(
            f"{sortable(rows, [heading for _, heading, _, _ in columns])}<ul>{''.join(f'<li>{text(note)}</li>' for note in self.notes)}</ul>"
        )

    def _shown(self) -> tuple[list[tuple], list[dict[str, Any]]]:
        """The columns that say something, and the rows."""
        columns = [column for column in SHOWN if self.table[column[0]].notna().any()]
        partial = not self.table["done"].equals(self.table["epochs"])
        columns = [
            c
            for c in columns
            if c[0] not in IF_DIFFERENT or self.table[c[0]].nunique(dropna=False) > 1 or (c[0] == "epochs" and partial)
        ]
        return columns, self.table.to_dict("records")

    def save(self, folder: str | Path, name: str = "compare") -> Path:
        """Write <name>.md, .csv, .png and .html (self-contained, interactive) into a folder; returns the HTML's
        path.
        """
        folder = Path(folder)
        figure = figures.tradeoffs(self.table)
        blocks: list[Raw | Picture] = [Raw(f"<h1>{len(self.table)} runs compared</h1>"), self.html(), Picture(figure)]
        blocks += [Picture(figures.agreement(self.agreement, self.table))] if len(self.agreement) else []
        store.atomically(
            folder / f"{name}.html", lambda p: p.write_text(document("Runs compared", blocks), encoding="utf-8")
        )
        markdown = f"# Runs compared\n\n{self.markdown()}\n![test accuracy against cost]({name}.png)\n"
        store.atomically(folder / f"{name}.md", lambda p: p.write_text(markdown, encoding="utf-8"))
        store.atomically(folder / f"{name}.csv", lambda p: self.table.drop(columns=["path"]).to_csv(p, index=False))
        figures.save(figure, folder / f"{name}.png", width=1200)
        return folder / f"{name}.html"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/html": self.html(), "text/markdown": self.markdown(), "text/plain": repr(self)}

    def __repr__(self) -> str:
        return (
            f"<Comparison of {len(self.table)} runs, {int(self.table['test_accuracy'].notna().sum())} of them finished>"
        )


def compare(runs: str | Path | Run | Sequence[Run | str | Path], dataset: str = "") -> Comparison:
    """Put runs side by side, finished or not.

    runs: a folder of run directories, paths with commas between them, or a list of runs and paths. dataset: only the
    runs on it ("": all).
    Raises KitError for a path that is no run (with the runs found nearby), and when nothing is left to compare.
    """
    found, aside = find(runs)
    if dataset:
        there = sorted({str(run.config.dataset) for run in found})
        found = [run for run in found if dataset in (run.config.dataset, Path(str(run.config.dataset)).name)]
        if not found:
            raise KitError(f"no run is on dataset {dataset!r}; these are on: {', '.join(there)}")
    known = [Known(run) for run in found]
    table = pd.DataFrame([_row(run, files) for run, files in zip(found, known)])
    table["run"] = _apart(found)
    table["data"] = _data_labels(table)
    table[NUMBERS] = table[NUMBERS].apply(pd.to_numeric, errors="coerce")
    _mark_fronts(table)
    agreement = _agreement(known, table)
    return Comparison(
        found, table, agreement, [*_notes(table), *_agreement_notes(agreement), *_older(known, table), *aside, NOTE]
    )


# ---- which runs ----------------------------------------------------------------------------------


def find(runs: Any) -> tuple[list[Run], list[str]]:
    """The runs meant, each once and in order, and sentences about what a folder holds besides."""
    if isinstance(runs, str) and not Path(runs).expanduser().exists():
        runs = [part.strip() for part in runs.split(",") if part.strip()]
    entries = [runs] if isinstance(runs, (str, Path, Run)) else list(runs)
    found: dict[Path, Run] = {}
    aside: list[str] = []
    for entry in entries:
        for run in [entry] if isinstance(entry, Run) else _at(Path(entry).expanduser(), aside):
            found.setdefault(run.path.resolve(), run)
    if not found:
        raise KitError(
            "no runs to compare: give a folder of runs, such as report.compare('runs'); kit.search(kit.Config(...)) or "
            "papermill notebooks/ablation.ipynb out.ipynb makes some"
        )
    return list(found.values()), aside


def _at(path: Path, aside: list[str]) -> list[Run]:
    folders = sorted(p.parent for p in path.glob("*/config.json"))
    if (path / "config.json").is_file() or not folders:
        return [opened(path)]
    runs: list[Run] = []
    for folder in folders:
        if re.search(r"\.old\d+$", folder.name):
            aside.append(f"Left out: {folder.name}, which was put aside for a newer run of the same configuration.")
            continue
        try:
            runs.append(opened(folder))
        except KitError as error:  # one broken directory does not hide the others
            aside.append(f"Left out: {str(error).split('; runs nearby')[0]}.")
    if not runs:
        raise KitError(f"{path} holds no run that can be read. {' '.join(aside)}")
    return runs


# ---- the table -----------------------------------------------------------------------------------


def _row(run: Run, known: Known) -> dict[str, Any]:
    c, m, place = known.config, known.metrics, known.provenance
    finished = run.status == "finished"
    image = known.model["network"].get("image")
    asked = [0, c["image_size"], c["image_size"]] if c.get("image_size") else None
    shape = image if isinstance(image, list) and len(image) == 3 else asked
    size = "{1}×{2}".format(*shape) if shape else None
    limit = c.get("train_images")
    machine = [place.get("device"), place.get("processor"), f"{place.get('threads', '?')} thread(s)"]
    method = str(c.get("method"))
    return {
        "run": run.path.name,
        "data": None,
        "dataset": str(c.get("dataset")),
        "size": size,
        "split": place.get("split"),
        "test_images": m.get("test_images"),
        "method": method,
        "title": METHODS[method].title if method in METHODS else method,
        "space": c.get("space"),
        "seed": c.get("seed"),
        "status": run.status if finished or run.status == "failed" else "unfinished",
        "done": m.get("epochs", known.last.get("epoch", 0)),
        "epochs": c.get("epochs"),
        "budget": f"{c.get('epochs', '?')} epoch{'s' * (c.get('epochs') != 1)}"
        + (f" of {limit} images" if limit else ""),
        "test_accuracy": m.get("test_accuracy"),
        "val_accuracy": m.get("val_accuracy", None if m else known.last.get("val_accuracy")),
        "seconds": m.get("seconds"),
        "memory_mb": m.get("peak_memory_mb"),
        "params": m.get("params"),
        "macs": m.get("macs"),
        "machine": ", ".join(map(str, machine)) if place else None,
        "network": _network(c),
        "trained_on": place.get("trained_on"),
        "commit": place.get("commit"),
        "remark": _remark(known, finished),
        "path": str(run.path),
    }


def _network(config: Mapping[str, Any]) -> str:
    if config.get("space") != "cell":
        return str(config.get("space"))
    return f"{config.get('channels', '?')} channels, {config.get('cells', '?')} cells"


def _remark(known: Known, finished: bool) -> str | None:
    said = [
        textwrap.shorten(
            f"{known.failure.get('error', 'Error')}: {known.failure.get('message', '')}", 110, placeholder=" …"
        )
    ]
    said = said if known.failure and not finished else []
    return "; ".join(said + known.problems) or None


def _apart(runs: Sequence[Run]) -> list[str]:
    """The runs' names; with their folder where two folders hold the same run."""
    names = Counter(run.path.name for run in runs)
    return [run.path.name if names[run.path.name] == 1 else str(run.path) for run in runs]


def _data_labels(table: pd.DataFrame) -> list[str]:
    """Runs with the same label have the same images: data set, size in pixels, split and number of test images.
    Unfinished ones, of which less
    is known, have the label of the finished ones that they may belong to."""
    short = table["dataset"].map(lambda name: Path(name).name or name)
    ambiguous = {
        name for name, group in table.groupby(short)["dataset"] if group.nunique() > 1
    }  # folders of the same name
    label = short.where(~short.isin(ambiguous), table["dataset"])
    for name, group in table.groupby("dataset"):
        sizes = group["size"].dropna().unique()
        usual = f" {sizes[0]}" if len(sizes) == 1 else ""
        label[group.index] += [f" {size}" if _known(size) else usual for size in group["size"]]
        done = group[group["split"].notna()]
        versions = list(dict.fromkeys(zip(done["split"], done["test_images"])))
        if len(versions) > 1:  # the same name, but other images were held out for the test
            label[done.index] += [
                f" (split {versions.index(pair) + 1})" for pair in zip(done["split"], done["test_images"])
            ]
    return label.tolist()


def _known(value: Any) -> Any:
    return None if value is None or (isinstance(value, float) and math.isnan(value)) else value


def _cell(value: Any, factor: float | None, form: str) -> Cell:
    value = _known(value)
    if value is None:
        return Cell(None)
    return Cell(str(value)) if factor is None else Cell(format(value * factor, form), float(f"{value * factor:.10g}"))


# ---- fronts --------------------------------------------------------------------------------------


def pareto(cost: Sequence[float], gain: Sequence[float]) -> np.ndarray:
    """bool [N]: True where no other costs no more and gains no less, with one of the two strictly better. NaN is never
    on the front.
    """
    cost, gain = np.asarray(cost, dtype=float), np.asarray(gain, dtype=float)
    front = np.zeros(len(cost), dtype=bool)
    best, price = -math.inf, math.nan
    for i in np.lexsort((-gain, cost)):  # cheapest first, and of equal cost the best first
        if np.isfinite(cost[i]) and np.isfinite(gain[i]):
            front[i] = gain[i] > best or (gain[i] == best and cost[i] == price)
            best, price = (gain[i], cost[i]) if gain[i] > best else (best, price)
    return front


def _mark_fronts(table: pd.DataFrame) -> None:
    """A front is one of runs on the same data with the same budget, and for seconds on the same machine."""
    for cost, look in COSTS.items():
        table[f"front_{cost}"] = False
        for _, group in table.groupby(list(look.within), dropna=False):
            table.loc[group.index, f"front_{cost}"] = pareto(group[cost], group["test_accuracy"])
    names = [[cost for cost in COSTS if row[f"front_{cost}"]] for row in table.to_dict("records")]
    table["fronts"] = [", ".join(COSTS[cost].short for cost in mine) or None for mine in names]


# ---- architectures -------------------------------------------------------------------------------


def picks(genotype: Any) -> tuple[Counter, Counter]:
    """What a genotype chose, as multisets of (place, choice) and of (place, input); both empty for a fixed network."""
    choices: Counter = Counter()
    inputs: Counter = Counter()
    for kind, places in genotype.items() if isinstance(genotype, Mapping) else ():
        for i, entries in enumerate(places if isinstance(places, (list, tuple)) else ()):
            nested = isinstance(entries, (list, tuple)) and any(isinstance(entry, (list, tuple)) for entry in entries)
            for entry in entries if nested else [entries]:
                choices[f"{kind}/{i}", json.dumps(entry)] += 1
                if nested and len(entry) == 2:
                    inputs[f"{kind}/{i}", entry[1]] += 1
    return choices, inputs


def _agreement(known: Sequence[Known], table: pd.DataFrame) -> pd.DataFrame:
    chosen = [picks(files.model.get("genotype")) for files in known]
    given = [files.config.get("arch") == "given" for files in known]
    rows = []
    for i, j in itertools.combinations(range(len(known)), 2):
        (a, a_inputs), (b, b_inputs) = chosen[i], chosen[j]
        if (
            a
            and b
            and table["space"][i] == table["space"][j]
            and {place for place, _ in a} == {place for place, _ in b}
        ):
            inputs = (a_inputs & b_inputs).total() if a_inputs and b_inputs else None
            rows.append(
                {
                    "run": table["run"][i],
                    "other": table["run"][j],
                    "space": table["space"][i],
                    "found": not (given[i] or given[j]),
                    "shared": (a & b).total(),
                    "shared_inputs": inputs,
                    "of": max(a.total(), b.total()),
                }
            )
    return pd.DataFrame(rows, columns=["run", "other", "space", "found", "shared", "shared_inputs", "of"])


def by_chance() -> float:
    """Choices that two random architectures of the cell space share on average: each draws 2 of a node's n candidates,
    2 · 2 / n in common.
    """
    return sum(4 / len(slot.candidates) for slot in cell_slots())


def _agreement_notes(agreement: pd.DataFrame) -> list[str]:
    notes = []
    for space, rows in agreement[agreement["found"].astype(bool)].groupby("space"):
        chance = f" (two random architectures: {by_chance():.1f})" if space == "cell" else ""
        most = rows.loc[rows["shared"].idxmax()]
        what = "(operation, input) choices" if rows["shared_inputs"].notna().any() else "choices"
        notes.append(
            f"Architectures in space {space}: of {most['of']} {what}, node by node, two that were found share "
            f"{rows['shared'].mean():.1f} on average{chance}; most alike: {most['run']} and {most['other']} with "
            f"{most['shared']}."
        )
    return notes


# ---- what is comparable --------------------------------------------------------------------------


def _older(known: Sequence[Known], table: pd.DataFrame) -> list[str]:
    names = [name for name, files in zip(table["run"], known) if files.lacking]
    listed = "all" if len(names) == len(table) else ", ".join(names[:8] + ["…"] * (len(names) > 8))
    return [f"Made by an older version of kit, shown with what they have: {listed}."] if names else []


def _notes(table: pd.DataFrame) -> list[str]:
    finished = table[table["test_accuracy"].notna()]
    notes, same = [], []
    for column, title, consequence in ASPECTS:
        counts = finished[column].fillna("not recorded").value_counts(sort=False)
        if len(counts) == 1:
            same.append(f"{title}: {counts.index[0]}")
        elif len(counts) > 1:
            shown = [f"{value} ({n} run{'s' * (n > 1)})" for value, n in counts.items()]
            listed = "; ".join(shown[:8] + ["…"] * (len(shown) > 8))
            notes.append(f"Different {title}: {listed}: {consequence}.")
    if same:
        notes.insert(0, f"The same in all {len(finished)} finished runs: {'; '.join(same)}.")
    others = table[table["test_accuracy"].isna()]
    if len(others):
        listed = ", ".join(
            f"{row['run']} ({row['status']} after {row['done']:.0f} of {row['epochs']:.0f} epochs)".replace("nan", "?")
            for row in others.to_dict("records")
        )
        notes.append(f"In the table only, with what they have: {listed}.")
    return notes
