"""Runs side by side: one table, Pareto fronts of test accuracy against cost, how much architectures agree, and what of
it is comparable."""

from __future__ import annotations

import itertools
import json
import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import itables
import numpy as np
import pandas as pd
from itables.javascript import generate_init_offline_itables_html
from markupsafe import Markup

from kit import figures
from kit.errors import KitError
from kit.methods import METHODS
from kit.run.run import Run
from kit.space.cell import cell_slots
from kit.studies import render
from kit.studies.summaries import Facts
from kit.studies.tables import COSTS

NOTE = (
    "Test accuracy is reported, nothing is selected by it: a front describes these runs, and a single run can be on it "
    "by the luck of its seed. To choose one, use validation accuracy."
)
# cost → the columns in which runs must agree to stand on one front
FRONTS = {
    "seconds": ["data", "budget", "machine"],
    "params": ["data", "budget"],
    "macs": ["data", "budget"],
}
# what two runs may differ in: the table's column, its name, and what follows when it differs
ASPECTS = (
    ("data", "data", "accuracy is not comparable between them, and multiply-adds are of other images"),
    ("budget", "budget", "accuracy and seconds differ by budget as well as by method: no front spans two"),
    ("machine", "machine", "seconds are not comparable between them: no front over seconds spans two"),
    ("space", "search space", "accuracy and costs are comparable, architectures within one space only"),
    ("network", "network size", "accuracy and costs differ by size as well as by cell"),
    ("trained_on", "training part", "a method that reads validation data has fewer images to train on"),
    ("commit", "commit", "the code differs"),
)
# the table as it is shown: column → heading and format
SHOWN: Mapping[str, tuple[str, str]] = {
    "run": ("run", "{}"),
    "data": ("data", "{}"),
    "space": ("space", "{}"),
    "method": ("method", "{}"),
    "seed": ("seed", "{:.0f}"),
    "status": ("status", "{}"),
    "done": ("epochs", "{:.0f}"),
    "epochs": ("of", "{:.0f}"),
    "test_accuracy": ("test accuracy", "{:.2%}"),
    "fronts": ("on the front of", "{}"),
    "val_accuracy": ("validation accuracy", "{:.2%}"),
    "seconds": ("seconds", "{:,.0f}"),
    "params": ("parameters", "{:,.0f}"),
    "macs": ("multiply-adds", "{:,.0f}"),
    "memory_mb": ("memory, MB", "{:,.0f}"),
    "remark": ("remark", "{}"),
}
NUMBERS = [name for name, (_, form) in SHOWN.items() if form != "{}"] + ["test_images"]


@dataclass(frozen=True)
class Comparison:
    """Runs, and what can be said about them together. In a notebook it is a table that sorts and filters.

    table: one row per run, finished or not: the columns of SHOWN, and dataset, size, split, test_images, title, budget,
    machine, network, trained_on, commit, path, and front_seconds, front_params, front_macs (bool). Accuracies in
    [0, 1]; unknown values are NaN or None. agreement: one row per two runs of one space: run, other, space, found (by a
    search or a draw, neither was given), shared and shared_inputs (None where choices have none), of. notes: what is
    comparable and what is not, in sentences.
    """

    runs: list[Run]
    table: pd.DataFrame
    agreement: pd.DataFrame
    notes: list[str]

    def markdown(self) -> str:
        """Table and notes."""
        return render.markdown_table(self.shown()) + "\n\n" + "".join(f"- {note}\n" for note in self.notes)

    def html(self) -> Markup:
        """The table that sorts and filters, and the notes; no network, no file beside it."""
        settings = {
            "paging": False,
            "maxBytes": 0,
            "layout": {"top1": "searchBuilder"},
            "text_in_header_can_be_selected": False,
        }
        table = itables.to_html_datatable(self.shown(""), connected=False, showIndex=False, **settings)
        notes = Markup("").join(Markup("<li>{}</li>").format(note) for note in self.notes)
        scripts = generate_init_offline_itables_html(itables.options.dt_bundle)
        return Markup(scripts + table) + Markup("<ul>{}</ul>").format(notes)

    def shown(self, unknown: str = "–") -> pd.DataFrame:
        """The columns that say something, as strings under their headings."""
        columns = {}
        for name, (heading, form) in SHOWN.items():
            values = self.table[name]
            same = name in ("data", "space") and values.nunique(dropna=False) == 1  # the notes name it
            if values.notna().any() and not same and not (name == "epochs" and self.table["done"].equals(values)):
                columns[heading] = [form.format(value) if pd.notna(value) else unknown for value in values]
        return pd.DataFrame(columns)

    def save(self, folder: str | Path, name: str = "compare") -> Path:
        """Write <name>.md, .csv, .png and .html (self-contained, interactive) to a folder; returns the HTML's path."""
        folder = Path(folder)
        shown = [figures.tradeoffs(self.table)]
        pictures = render.save_all([("", "test accuracy against cost", shown[0])], folder, name)
        markdown = "".join(f"\n![{caption}]({file})\n" for file, caption in pictures)
        render.write_text(folder / f"{name}.md", f"# Runs compared\n\n{self.markdown()}{markdown}")
        render.write_text(folder / f"{name}.csv", self.table.drop(columns="path").to_csv(index=False))
        title = f"{len(self.table)} runs compared"
        drawn = render.interactive(shown)
        page = render.document("compare.html.j2", title=title, table=self.html(), figures=drawn)
        return render.write_text(folder / f"{name}.html", page)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/html": self.html(), "text/markdown": self.markdown(), "text/plain": repr(self)}

    def __repr__(self) -> str:
        finished = int(self.table["test_accuracy"].notna().sum())
        return f"<Comparison of {len(self.table)} runs, {finished} of them finished>"


def compare(runs: str | Path | Run | Sequence[Run | str | Path], dataset: str = "") -> Comparison:
    """Put runs side by side, finished or not.

    runs: a folder of run directories, paths with commas between them, or a list of runs and paths. dataset: only the
    runs on it ("": all). Raises KitError for a path that is no run, and when nothing is left to compare.
    """
    found, aside = find(runs)
    if dataset:
        there = sorted({run.config.dataset for run in found})
        found = [run for run in found if dataset in (run.config.dataset, Path(run.config.dataset).name)]
        if not found:
            raise KitError(f"no run is on dataset {dataset!r}; these are on: {', '.join(there)}")
    facts = [Facts(run) for run in found]
    table = pd.DataFrame([_row(run, of) for run, of in zip(found, facts)])
    names = Counter(table["run"])  # two folders may hold the same run
    table["run"] = [run.path.name if names[run.path.name] == 1 else str(run.path) for run in found]
    table["data"] = _data_labels(table)
    table[NUMBERS] = table[NUMBERS].apply(pd.to_numeric, errors="coerce")
    _mark_fronts(table)
    agreement = _agreement(facts, table)
    return Comparison(found, table, agreement, [*_notes(table), *_agreement_notes(agreement), *aside, NOTE])


def find(runs: Any) -> tuple[list[Run], list[str]]:
    """The runs meant, each once and in order, and sentences about what a folder holds besides."""
    if isinstance(runs, str) and not Path(runs).expanduser().exists():
        runs = [part.strip() for part in runs.split(",") if part.strip()]
    found: dict[Path, Run] = {}
    aside: list[str] = []
    for entry in [runs] if isinstance(runs, (str, Path, Run)) else runs:
        for run in [entry] if isinstance(entry, Run) else _at(Path(entry).expanduser(), aside):
            found.setdefault(run.path.resolve(), run)
    if not found:
        raise KitError(
            "no runs to compare: give a folder of runs, such as compare('runs'); kit.search(kit.Config(...)) or "
            f"papermill notebooks/ablation.ipynb out.ipynb makes some. {' '.join(aside)}"
        )
    return list(found.values()), aside


def _at(path: Path, aside: list[str]) -> list[Run]:
    """The run at a path, or those in a folder; one broken directory does not hide the others."""
    folders = sorted(p.parent for p in path.glob("*/config.json"))
    if (path / "config.json").is_file() or not folders:
        return [Run.load(path)]
    runs = []
    for folder in folders:
        try:
            if re.search(r"\.old\d+$", folder.name):
                raise KitError(f"{folder.name}, which was put aside for a newer run of the same configuration")
            runs.append(Run.load(folder))
        except KitError as error:
            aside.append(f"Left out: {str(error).split('; runs nearby')[0]}.")
    return runs


# ---- the table -----------------------------------------------------------------------------------


def _row(run: Run, facts: Facts) -> dict[str, Any]:
    config, metrics, place = run.config, facts.metrics, facts.provenance
    image = facts.network.get("image") or (config.image_size and [0, config.image_size, config.image_size])
    limit = f" of {config.train_images} images" if config.train_images else ""
    failed = f"{facts.failure.get('error', 'Error')}: {facts.failure.get('message', '')}" if facts.failure else ""
    remarks = [textwrap.shorten(failed, 110, placeholder=" …"), *facts.problems]
    cells = f"{config.channels} channels, {config.cells} cells"
    return {
        "run": run.path.name,
        "data": None,
        "dataset": config.dataset,
        "size": "{1}×{2}".format(*image) if image else None,
        "method": config.method,
        "title": METHODS[config.method].title if config.method in METHODS else config.method,
        "space": config.space,
        "seed": config.seed,
        "status": run.status,
        "done": metrics.get("epochs", facts.last.get("epoch", 0)),
        "epochs": config.epochs,
        "budget": f"{config.epochs} epoch{'s' * (config.epochs != 1)}{limit}",
        **{name: metrics.get(name) for name in ("test_accuracy", "test_images")},
        "val_accuracy": (metrics or facts.last).get("val_accuracy"),
        **{column: metrics.get(name) for column, name in COSTS.items()},
        **{name: place.get(name) for name in ("split", "trained_on", "commit")},
        "machine": "{device}, {processor}, {threads} thread(s)".format(**place) if place else None,
        "network": cells if config.space == "cell" else config.space,
        "remark": "; ".join(filter(None, remarks)) or None,
        "path": str(run.path),
    }


def _data_labels(table: pd.DataFrame) -> pd.Series:
    """Finished runs with the same label have the same images: data set, size in pixels, split and number of test
    images."""
    short = table["dataset"].map(lambda name: Path(name).name or name)
    paths = table.groupby(short)["dataset"].transform("nunique")  # folders of the same name in different places
    usual = table.groupby("dataset")["size"].transform(lambda s: s.dropna().iloc[0] if s.nunique() == 1 else None)
    label = short.where(paths == 1, table["dataset"]) + (" " + table["size"].fillna(usual)).fillna("")
    done = table[table["split"].notna()]
    for _, group in done.groupby(label):  # the same name, but other images may have been held out for the test
        number = group.groupby(["split", "test_images"], sort=False, dropna=False).ngroup()
        if number.max() > 0:
            label[group.index] += [f" (split {i + 1})" for i in number]
    return label


def pareto(cost: Sequence[float], gain: Sequence[float]) -> np.ndarray:
    """bool [N]: True where no other costs no more and gains no less, with one of the two strictly better. NaN is never
    on the front."""
    cost, gain = np.asarray(cost, dtype=float), np.asarray(gain, dtype=float)
    cheaper, better = cost[:, None] <= cost, gain[:, None] >= gain  # [other, one]
    strictly = (cost[:, None] < cost) | (gain[:, None] > gain)
    return np.isfinite(cost + gain) & ~(cheaper & better & strictly).any(axis=0)


def _mark_fronts(table: pd.DataFrame) -> None:
    for cost, within in FRONTS.items():
        table[f"front_{cost}"] = False
        for _, group in table.groupby(within, dropna=False):
            table.loc[group.index, f"front_{cost}"] = pareto(group[cost], group["test_accuracy"])
    rows = table[[f"front_{cost}" for cost in FRONTS]].to_numpy()
    table["fronts"] = [", ".join(itertools.compress(FRONTS, row)) or None for row in rows]


# ---- architectures -------------------------------------------------------------------------------


def choices(genotype: Any) -> tuple[Counter, Counter]:
    """What a genotype chose, as multisets of (place, choice) and of (place, input); both empty for a fixed network."""
    chosen: Counter = Counter()
    inputs: Counter = Counter()
    for kind, places in genotype.items() if isinstance(genotype, Mapping) else ():
        for i, entries in enumerate(places if isinstance(places, (list, tuple)) else ()):
            nested = isinstance(entries, (list, tuple)) and any(isinstance(entry, (list, tuple)) for entry in entries)
            for entry in entries if nested else [entries]:
                chosen[f"{kind}/{i}", json.dumps(entry)] += 1
                if nested and len(entry) == 2:
                    inputs[f"{kind}/{i}", entry[1]] += 1
    return chosen, inputs


def _agreement(facts: Sequence[Facts], table: pd.DataFrame) -> pd.DataFrame:
    chosen = [choices(of.model.get("genotype")) for of in facts]
    given = [of.run.config.arch == "given" for of in facts]
    rows = []
    for i, j in itertools.combinations(range(len(facts)), 2):
        (a, a_inputs), (b, b_inputs) = chosen[i], chosen[j]
        same_places = a and {place for place, _ in a} == {place for place, _ in b}
        if same_places and table["space"][i] == table["space"][j]:
            row = {"run": table["run"][i], "other": table["run"][j], "space": table["space"][i]}
            row |= {"found": not (given[i] or given[j]), "shared": (a & b).total()}
            row["shared_inputs"] = (a_inputs & b_inputs).total() if a_inputs and b_inputs else None
            rows.append(row | {"of": max(a.total(), b.total())})
    return pd.DataFrame(rows, columns=["run", "other", "space", "found", "shared", "shared_inputs", "of"])


def by_chance() -> float:
    """Choices that two random architectures of the cell space share on average: each draws 2 of a node's n candidates,
    2 · 2 / n in common."""
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


def _notes(table: pd.DataFrame) -> list[str]:
    finished = table[table["test_accuracy"].notna()]
    notes, same = [], []
    for column, title, consequence in ASPECTS:
        counts = finished[column].fillna("not recorded").value_counts(sort=False)
        if len(counts) == 1:
            same.append(f"{title}: {counts.index[0]}")
        elif len(counts) > 1:
            listed = [f"{value} ({n} run{'s' * (n > 1)})" for value, n in counts.items()]
            notes.append(f"Different {title}: {_listed(listed, '; ')}: {consequence}.")
    if same:
        notes.insert(0, f"The same in all {len(finished)} finished runs: {'; '.join(same)}.")
    rows = table[table["test_accuracy"].isna()].to_dict("records")
    others = [f"{row['run']} ({row['status']} after {row['done']:.0f} of {row['epochs']} epochs)" for row in rows]
    return [*notes, f"In the table only, with what they have: {_listed(others, ', ')}."] if others else notes


def _listed(names: Sequence[str], separator: str, most: int = 8) -> str:
    return separator.join([*names[:most], *["…"] * (len(names) > most)])
