"""Accuracy under limits: one search under several bounds on one cost, and what came of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from kit import data, errors, figures, space
from kit.config import Config
from kit.errors import KitError
from kit.methods import METHODS
from kit.run.run import Run
from kit.search.engine import pick_device
from kit.space import latency
from kit.space.limits import Limits
from kit.studies import render, report, summaries
from kit.studies.tables import grouped, percent

TITLES = {"params": "parameters", "macs": "multiply-adds", "latency_ms": "latency, ms"}
BOUNDS = {"params": "max_params", "macs": "max_macs", "latency_ms": "max_latency_ms"}


def configs(cost: str, shares: str, methods: str, seeds: int | str, values: dict[str, Any]) -> list[Config]:
    """The configurations of a study: every method and seed under every share of the range of `cost` that its space
    reaches.

    cost: params, macs or latency_ms. shares: numbers in [0, 1] with commas: 0 leaves the cheapest children only, 0.5
    the range's lower half, 1 is without a limit. methods, seeds, values: as for `report.grid`. Raises KitError.
    """
    if cost not in BOUNDS:
        raise errors.unknown("cost", cost, BOUNDS)
    asked, found = _shares(shares), []
    for config in report.grid("ablation", methods, seeds, values):
        for share in asked:
            found.append(config if share == 1 else config.but(**{BOUNDS[cost]: bound(config, cost, share)}))
    return found


def bound(config: Config, cost: str, share: float) -> int | float:
    """The cost at this share of the way from the cheapest to the most expensive child of the configuration's space, on
    its images."""
    sets = data.load_dataset(config.dataset, config.root, config.image_size)
    image = (sets.channels, *sets.size)
    size = (config.channels, config.cells, config.reductions)
    low, high = _reach(cost, config.space, sets.num_classes, image, size, config.device, config.latency_batch)
    at = low + share * (high - low)
    return float(f"{at:.4g}") if cost == "latency_ms" else math.floor(at)


@functools.cache  # seeds share it, and a latency would be taken anew for each
def _reach(
    cost: str, name: str, classes: int, image: tuple, size: tuple, device: str, batch: int
) -> tuple[float, float]:
    with torch.random.fork_rng(devices=[]):
        net = space.build(name, classes, image, **dict(zip(("channels", "cells", "reductions"), size)))
    if not net.slots:
        raise KitError(
            f"space {name!r} is one fixed network: a limit leaves nothing to choose; use space='cell', 'choice' or "
            "'mobile'"
        )
    timed = latency.table(net, pick_device(device), batch) if cost == "latency_ms" else None
    return Limits(net, latency=timed).reach(BOUNDS[cost])


def _shares(text: str) -> list[float]:
    try:
        shares = sorted({float(share) for share in str(text).split(",")})
    except ValueError:
        shares = []
    if not shares or not 0 <= shares[0] <= shares[-1] <= 1:
        raise KitError(f"shares={text!r}: give numbers from 0 to 1 with commas, such as 0.25,0.5,1 (1: no limit)")
    return shares


def table(runs: Sequence[Run], cost: str) -> pd.DataFrame:
    """One row per finished run: method, title, seed, bound (NaN: no limit), cost (of the network found), test_accuracy,
    kept (bool). A latency is the one that the run's own limit was kept by; without a limit it is taken now."""
    rows = []
    for run in runs:
        limit = getattr(run.config, BOUNDS[cost], None)
        value = run_latency(run) if cost == "latency_ms" else run.metrics[cost]
        rows.append(
            {
                "method": run.config.method,
                "title": METHODS[run.config.method].title,
                "seed": run.config.seed,
                "bound": math.nan if limit is None else limit,
                "cost": value,
                "test_accuracy": run.metrics["test_accuracy"],
                "kept": limit is None or value <= limit,
            }
        )
    return pd.DataFrame(rows)


def run_latency(run: Run) -> float:
    """Milliseconds for latency_batch images: what the run's limit was kept by; without one, taken now on the run's
    device."""
    net = run.model().network
    recorded = latency.recorded(run.path / "latency.json", net.picks_of(run.genotype))
    if recorded is not None:
        return recorded[0]
    device, threads = pick_device(run.config.device), torch.get_num_threads()
    return latency.time_child(net, net.only_child().picks, device, run.config.latency_batch, threads)


def summarize(rows: pd.DataFrame) -> pd.DataFrame:
    """`tables.grouped` by method and bound, tightest first, with cost_mean and cost_max."""
    rows = rows.sort_values(["method", "bound"])
    return grouped(rows, ["method", "bound"], cost_mean=("cost", "mean"), cost_max=("cost", "max"))


def formatted(summary: pd.DataFrame, cost: str) -> pd.DataFrame:
    """The summary as the report shows it: strings."""
    form = ",.4g" if cost == "latency_ms" else ",.0f"
    return pd.DataFrame(
        {
            "method": summary["title"],
            "limit": ["none" if math.isnan(value) else format(value, form) for value in summary["bound"]],
            "n": summary["n"].astype(str),
            "test accuracy, %": [f"{100 * value:.2f}" for value in summary["accuracy_mean"]],
            "95% interval": [percent(*ends) for ends in zip(summary["accuracy_low"], summary["accuracy_high"])],
            f"{TITLES[cost]} (mean)": [format(value, form) for value in summary["cost_mean"]],
            f"{TITLES[cost]} (largest)": [format(value, form) for value in summary["cost_max"]],
        }
    )


def write(runs: Sequence[Run], cost: str, folder: str | Path) -> Path:
    """limits-<dataset>-<cost>.md, .png and .json (what `rewrite` needs) in `folder`; returns the Markdown's path."""
    report.require(runs)
    rows, name = table(runs, cost), Path(runs[0].config.dataset).name
    path = Path(folder) / f"limits-{name}-{cost}.json"
    figure = figures.under_limits(summarize(rows), rows, cost, title=f"{name}: accuracy under limits")
    pictures = render.save_all([("", f"accuracy against {TITLES[cost]}", figure)], path.parent, path.stem)
    summaries.write(path, "limits", runs, "", pictures, cost=cost, rows=rows.to_dict("records"))
    return rewrite(path)


def rewrite(path: str | Path) -> Path:
    """The Markdown of such a report once more, from the summary of its runs; returns its path."""
    path = Path(path)
    kept = summaries.read(path)
    rows, cost = pd.DataFrame(kept.more["rows"]), kept.more["cost"]
    summary = formatted(summarize(rows), cost)
    text = render.render("limits.md.j2", runs=kept.runs, title=TITLES[cost], rows=rows, table=summary, kept=kept)
    return render.write_text(path.with_suffix(".md"), text)
