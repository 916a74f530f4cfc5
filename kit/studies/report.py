"""Reports on many runs of one data set: Markdown, one self-contained HTML page, CSV, LaTeX and pictures.

What each study asks is in `STUDIES`; what it says is in templates/study.md.j2. `python -m kit.studies.report reports`
writes every report of a folder once more, from the summaries of runs that lie there.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from kit import figures
from kit.config import Config
from kit.errors import KitError
from kit.lab import sweep
from kit.methods import METHODS
from kit.run import store
from kit.run.run import Run
from kit.studies import render, summaries, tables
from kit.studies.summaries import Record, Summary


@dataclass(frozen=True)
class Study:
    """title: of the report, and in part, where some of its rows are left out; methods: its rows; shown: those whose run
    of the first seed is shown in detail; budget: what the methods have in common, with the configuration's fields in
    braces."""

    title: str
    in_part: str
    methods: tuple[str, ...]
    shown: tuple[str, ...]
    budget: str

    def titled(self, runs: Sequence[Run | Record]) -> str:
        return self.title if {run.config.method for run in runs}.issuperset(self.methods) else self.in_part


STUDIES: Mapping[str, Study] = {
    # DHA's Table 3, and the rows every ablation needs beside it
    "ablation": Study(
        "Joint against sequential search",
        "Joint search beside other methods",
        tuple("dha seq-dha nas+da seq-nas+da nas+hpo seq-nas+hpo ista random plain".split()),
        ("dha",),
        "a sequential method searches for {search_epochs} of them and trains what it found from scratch in the others; "
        "a joint one searches for at most {search_epochs} and goes on with the same weights.",
    ),
    "methods": Study(
        "Four systems side by side",
        "Methods side by side",
        tuple(
            "dha diffautoml daas autohas ista dsnas gdas darts snas daas-independent autohas-phase autohas-hpo "
            "autohas-diff random-search bayesian hgd ift random plain".split()
        ),
        ("dha", "diffautoml", "daas", "autohas"),
        "a method that retrains searches for {search_epochs} of them and trains what it found from scratch in the "
        "others; the others search for at most {search_epochs} and go on with the same weights; trials share those "
        "{search_epochs}. An epoch's cost differs: two-level steps pass over {children} children and probe "
        "{arch_samples} architecture(s), which the seconds show. Cells, choice blocks and MobileNetV2 blocks differ in "
        "size, which the parameters and multiply-adds show.",
    ),
}

# reports of another form: the module whose `rewrite(path)` makes them again
OTHERS: Mapping[str, str] = {"limits": "kit.studies.limits", "landscape": "kit.studies.landscape.report"}


def grid(study: str, methods: str, seeds: int | str, values: dict[str, Any]) -> list[Config]:
    """The configurations of a study, checked. methods: "all" (the study's) or names with commas; seeds: a number of
    them (from 0) or a list with commas; values: fields of `Config` for all runs. Raises KitError."""
    every = STUDIES[study].methods
    rows = list(every) if methods == "all" else [name.strip() for name in methods.split(",") if name.strip()]
    try:
        chosen = list(range(seeds)) if isinstance(seeds, int) else [int(seed) for seed in str(seeds).split(",")]
    except ValueError:
        raise KitError(
            f"seeds={seeds!r} is neither a number of seeds nor a list of them: -p seeds 5, or -p seeds 0,3,7"
        ) from None
    if not chosen:
        raise KitError(f"seeds={seeds!r} makes no runs: give 1 or more")
    return sweep.grid(seed=chosen, method=rows, **values)


def write(
    study: str, runs: Sequence[Run], folder: str | Path = "reports", name: str | None = None, note: str = ""
) -> Path:
    """Write <study>-<dataset>.md, .html, .csv, .tex, pictures and .json (what `rewrite` needs) from finished runs of
    one data set; returns the Markdown's path.

    name: of the files, without an ending, so that a data set may have several reports. note: a sentence about the
    circumstances (what else the machine did, say) that stands with the hardware.
    """
    require(runs)
    datasets = {run.config.dataset for run in runs}
    if len(datasets) > 1:
        raise KitError(f"a report is about one data set, these runs have {sorted(datasets)}: report them one by one")
    path = Path(folder) / f"{name or _stem(study, runs)}.json"
    pictures = render.save_all(_pictures(STUDIES[study], runs), path.parent, path.stem)
    summaries.write(path, study, runs, note, pictures)
    return rewrite(path)


def require(runs: Sequence[Run]) -> None:
    """Raises KitError where there is nothing to report."""
    if not runs:
        raise KitError("no finished runs, so there is nothing to report: see the failures that the sweep listed")


def rewrite(path: str | Path) -> Path:
    """The text and tables of a report once more, from the summary of its runs and the pictures that lie beside it: the
    same bytes wherever it is done. Returns the Markdown's path; raises KitError for what is no such summary."""
    path = Path(path)
    kept = summaries.read(path)
    if kept.study in OTHERS:
        return importlib.import_module(OTHERS[kept.study]).rewrite(path)
    if kept.study not in STUDIES:
        raise KitError(f"{path} is of study {kept.study!r}; known: {', '.join([*STUDIES, *OTHERS])}")
    dataset = Path(kept.runs[0].config.dataset).name
    summary = tables.summarize(kept.runs)
    table = tables.formatted(summary, dataset)
    text = _text(kept, summary, table, "" if path.stem == _stem(kept.study, kept.runs) else path.stem)
    render.write_text(path.with_suffix(".html"), render.html_report(text, path.parent))
    csv = tables.per_run(kept.runs).drop(columns="path").to_csv(index=False)
    render.write_text(path.with_suffix(".csv"), csv)
    paper = table.drop(columns=["memory, MB", table.columns[-1]]).assign(method=summary["method"])
    render.write_text(path.with_suffix(".tex"), render.latex_table(paper, CAPTION.format(dataset), f"tab:{dataset}"))
    return render.write_text(path.with_suffix(".md"), text)


CAPTION = (
    "Test accuracy on {}: mean and standard deviation over n seeds, Student's 95% interval, paired differences in "
    f"points, p-values of paired t-tests adjusted by Holm over the table's comparisons with {tables.REFERENCE}."
)


def _stem(study: str, runs: Sequence[Run | Record]) -> str:
    return f"{study}-{Path(runs[0].config.dataset).name}"


def _pictures(study: Study, runs: Sequence[Run]) -> list[tuple[str, str, go.Figure]]:
    name = Path(runs[0].config.dataset).name
    summary, table = tables.summarize(runs), tables.per_run(runs)
    accuracy = figures.ablation(summary, table, title=f"{name}: {study.titled(runs).lower()}")
    time = figures.accuracy_against_time(summary, title=f"{name}: accuracy against time")
    loss = figures.overlay(list(runs), "loss")
    shown = [
        ("accuracy", "Test accuracy: mean with 95% interval; faint dots are the seeds", accuracy),
        ("time", "Test accuracy against the time of a run", time),
        ("loss", "Training loss (on augmented images, so not comparable between policies)", loss),
    ]
    for method in study.shown:
        example = next((run for run in runs if run.config.method == method), None)
        if example is not None:
            shown += _details(example, "" if len(study.shown) == 1 else f"{method}-")
    return shown


def _details(run: Run, prefix: str) -> list[tuple[str, str, go.Figure]]:
    title = f"one run of {METHODS[run.config.method].title.partition(':')[0]} (seed {run.config.seed})"
    shown = [(f"{prefix}curves", f"α, τ and η of {title}", figures.curves(run))]
    if "probabilities" in run.policy:
        shown.append((f"{prefix}policy", f"τ at the end of {title}", figures.policy(run)))
    return [*shown, (f"{prefix}cell", f"The architecture that {title} found", figures.cells(run))]


def _text(kept: Summary, summary: pd.DataFrame, table: pd.DataFrame, name: str) -> str:
    runs, study = kept.runs, STUDIES[kept.study]
    return render.render(
        "study.md.j2",
        kept=kept,
        runs=runs,
        title=study.titled(runs),
        budget=study.budget.format(**runs[0].config.model_dump()),
        table=table,
        findings=tables.findings(summary),
        reference=tables.REFERENCE,
        parameters=_parameters(kept) | ({"name": name} if name else {}),
    )


def _parameters(kept: Summary) -> dict[str, Any]:
    """The notebook's parameters that give these runs: what differs from the preset, and the methods and seeds."""
    config = kept.runs[0].config
    seeds = sorted({run.config.seed for run in kept.runs})
    methods = list(dict.fromkeys(run.config.method for run in kept.runs))
    return {
        "dataset": config.dataset,
        "preset": config.preset,
        "seeds": len(seeds) if seeds == list(range(len(seeds))) else ",".join(map(str, seeds)),
        **({} if methods == list(STUDIES[kept.study].methods) else {"methods": ",".join(methods)}),
        **summaries.changes(config),
    }


# ---- DAAS's mixing experiment (its Table 7): each found architecture trained with each found policy ----------------


def mixed_grid(searched: Sequence[Run], seed: int = 0) -> list[Config]:
    """Configurations that train the architecture of each run with the policy of each, for as long as those runs
    retrained theirs. searched: two or more finished runs that learned a policy; raises KitError otherwise."""
    learned = [run for run in searched if run.finished and "probabilities" in run.policy]
    if len(learned) < 2:
        raise KitError(
            f"mixing needs two finished runs that learned a policy, got {len(learned)} of {len(searched)}: run "
            "method='daas' with seeds=2 or more"
        )
    shared = (
        "dataset root image_size train_images preset device batch_size channels cells reductions lr weight_decay "
        "momentum clip drop_path auxiliary space precision deterministic out"
    ).split()
    return [
        Config(
            method="plain",
            seed=seed,
            epochs=arch.config.epochs - arch.config.search_epochs,
            genotype=str(arch.path),
            policy=str(tau.path),
            augment=tau.policy["name"],
            **{name: getattr(arch.config, name) for name in shared},
        )
        for arch in learned
        for tau in learned
    ]


def mixed_table(mixed: Sequence[Run]) -> pd.DataFrame:
    """Test accuracy of the runs of `mixed_grid`: a row per architecture, a column per policy, n = 1 each, numbered as
    they come."""
    numbers = {path: i for i, path in enumerate(dict.fromkeys(run.config.genotype for run in mixed), 1)}
    rows = {
        (f"architecture {numbers[run.config.genotype]}", f"policy {numbers[run.config.policy]}"): run.metrics[
            "test_accuracy"
        ]
        for run in mixed
    }
    return pd.Series(rows).unstack(sort=False)


# ---- a folder of reports -------------------------------------------------------------------------


def index(folder: str | Path) -> Path:
    """Write README.md of a folder: every Markdown report with its title, and whether its runs are kept beside it."""
    folder = Path(folder)
    reports = [
        {
            "name": path.stem,
            "title": path.read_text().partition("\n")[0].lstrip("# "),
            "endings": [ending for ending in ("html", "csv", "tex") if path.with_suffix(f".{ending}").is_file()],
            "summary": path.with_suffix(".json").is_file(),
        }
        for path in sorted(folder.glob("*.md"))
        if path.name != "README.md"
    ]
    return render.write_text(folder / "README.md", render.render("index.md.j2", reports=reports))


def main(arguments: Sequence[str]) -> None:
    folder = Path(*arguments[:1] or ["reports"])
    found = [path for path in sorted(folder.glob("*.json")) if "study" in store.read_json(path)]
    if not found:
        raise SystemExit(f"{folder} holds no summaries of reports: make one, as in make ablation")
    for path in [*map(rewrite, found), index(folder)]:
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
