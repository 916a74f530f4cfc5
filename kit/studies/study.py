"""Methods beside each other at equal budgets: the studies of the papers' tables, their grids and their reports."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kit import figures
from kit.config import Config
from kit.errors import KitError
from kit.lab import sweep
from kit.methods import METHODS
from kit.run.run import Run
from kit.studies import tables

BUDGET = ("epochs", "batch_size", "train_images", "image_size")  # that all methods have in common
TEMPLATE = "study.md.j2"
TITLES = {"ablation": "Joint search beside other methods", "methods": "Methods side by side"}
ROWS = {
    # DHA's Table 3, and the rows every ablation needs beside it
    "ablation": "dha,joint,seq-dha,nas+da,seq-nas+da,nas+hpo,seq-nas+hpo,ista,random,plain",
    "methods": "dha,diffautoml,daas,autohas,ista,dsnas,gdas,darts,snas,daas-independent,autohas-phase,autohas-hpo,"
    "autohas-diff,random-search,bayesian,hgd,ift,random,plain",
}
SHOWN = ("dha", "diffautoml", "daas", "autohas")  # a report shows one run of each in detail


def grid(study: str, methods: str, seeds: int | str, values: dict[str, Any]) -> list[Config]:
    """The configurations of a study. methods: "all" (the study's) or names with commas; seeds: see `sweep.seeds_of`."""
    every = [name for name in ROWS[study].split(",") if name in METHODS]  # without rows whose file the zoo lacks
    return sweep.grid(seed=sweep.seeds_of(seeds), method=every if methods == "all" else sweep.listed(methods), **values)


def gather(kind: str, runs: Sequence[Run]) -> tuple[list[tuple], dict[str, Any]]:
    if len(found := {tuple(f"{f}={getattr(run.config, f)}" for f in BUDGET) for run in runs}) > 1:
        said = " and ".join(sorted(map(", ".join, found)))
        raise KitError(f"methods are compared at one budget, and these runs have {said}: report them apart")
    name, summary, rows = Path(runs[0].config.dataset).name, tables.summarize(runs), tables.per_run(runs)
    accuracy = figures.ablation(summary, rows, title=f"{name}: {TITLES[kind].lower()}")
    augmented = "on augmented images: not comparable between policies"
    drawn = [
        ("-accuracy", "Test accuracy: mean with 95% interval; faint dots are the seeds", accuracy),
        ("-time", "Test accuracy against the time of a run", figures.accuracy_against_time(summary, title=name)),
        ("-progress", f"Accuracy over time; training accuracy is {augmented}", figures.progress(runs)),
        ("-loss", f"Training loss, {augmented}", figures.overlay(runs, "loss")),
    ]
    for method, run in {run.config.method: run for run in reversed(runs) if run.config.method in SHOWN}.items():
        title = f"one run of {METHODS[method].title.partition(':')[0]} (seed {run.config.seed})"
        drawn.append((f"-{method}-curves", f"α, τ and η of {title}", figures.curves(run)))
        if "probabilities" in run.policy:
            drawn.append((f"-{method}-policy", f"τ at the end of {title}", figures.policy(run)))
        drawn.append((f"-{method}-cell", f"The architecture that {title} found", figures.cells(run)))
    return drawn, {}


def contents(kept: dict[str, Any], runs: Sequence[Run]) -> dict[str, Any]:
    name, summary = Path(runs[0].config.dataset).name, tables.summarize(runs)
    went = tables.went(summary)
    said = tables.findings(summary.set_index("method"), tables.REFERENCE, unmoved=went["unmoved"])
    seen = Counter((run.config.method, words) for run in runs for words in getattr(run, "warnings", ()))
    runs_of = Counter(run.config.method for run in runs)
    warned = [f"`{method}`: {words} ({k} of {runs_of[method]})" for (method, words), k in seen.items()]
    shown = {"table": tables.formatted(summary, name), "findings": said, "went": went, "warned": warned}
    return {"title": f"{TITLES[kept['study']]}: {name}", "rows": tables.per_run(runs), **shown}


def mixed_grid(searched: Sequence[Run], seed: int = 0) -> list[Config]:
    """DAAS's mixing experiment (its Table 7): configurations that train the architecture of each run with the policy of
    each, for as long as they retrained theirs. searched: two or more that learned a policy, or KitError."""
    learned = [run for run in searched if run.finished and "probabilities" in run.policy]
    if len(learned) < 2:
        raise KitError(f"mixing needs two finished runs that learned a policy, got {len(learned)}: run 'daas', seeds=2")
    first, paths = learned[0].config, [str(run.path) for run in learned]
    epochs = first.epochs - first.search_epochs
    trained = {"method": "plain", "arch": "given", "hyper": "fixed", "epochs": epochs, "search_epochs": epochs}
    own = {"genotype": paths, "policy": paths, "seed": seed, "warm_up": None}
    return sweep.grid(**first.model_dump() | trained | own)


def mixed_table(mixed: Sequence[Run]) -> pd.DataFrame:
    """Test accuracy of the runs of `mixed_grid`: a row per architecture, a column per policy, n = 1 each."""
    names = [(Path(run.config.genotype).name, Path(run.config.policy).name) for run in mixed]
    index = pd.MultiIndex.from_tuples(names, names=["architecture", "policy"])
    return pd.Series([run.metrics["test_accuracy"] for run in mixed], index).unstack(sort=False)
