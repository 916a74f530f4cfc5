"""Accuracy under limits: one search under several bounds on one cost, and what came of them."""

from __future__ import annotations

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
from kit.run import store
from kit.run.run import Run
from kit.search.engine import pick_device
from kit.space import latency
from kit.space.limits import Limits
from kit.studies import report, summaries
from kit.studies.tables import interval

TITLES = {"params": "parameters", "macs": "multiply-adds", "latency_ms": "latency, ms"}
BOUNDS = {"params": "max_params", "macs": "max_macs", "latency_ms": "max_latency_ms"}


def configs(cost: str, shares: str, methods: str, seeds: int | str, values: dict[str, Any]) -> list[Config]:
    """The configurations of a study: every method and seed under every share of the range of `cost` that its space
    reaches.

    cost: params, macs or latency_ms. shares: numbers in [0, 1] with commas: 0 leaves the cheapest children only, 0.5
    the range's lower
    half, 1 is without a limit. methods, seeds: as for `report.grid`. values: fields of `Config` for all runs. Raises
    KitError for other words.
    """
    if cost not in BOUNDS:
        raise errors.unknown("cost", cost, BOUNDS)
    found = []
    for config in report.ablation_grid(methods, seeds, values):
        for share in _shares(shares):
            found.append(config if share == 1 else config.but(**{BOUNDS[cost]: bound(config, cost, share)}))
    return found


def bound(config: Config, cost: str, share: float) -> int | float:
    """The cost at this share of the way from the cheapest to the most expensive child of the configuration's space, on
    its images.
    """
    low, high = _reach(config, cost)
    at = low + share * (high - low)
    return float(f"{at:.4g}") if cost == "latency_ms" else math.floor(at)


_REACHED: dict[tuple, tuple[float, float]] = {}


def _reach(config: Config, cost: str) -> tuple[float, float]:
    """Kept, since seeds share it and a latency would be taken anew for each."""
    sets = data.load_dataset(config.dataset, config.root, config.image_size)
    settings = {"channels": config.channels, "cells": config.cells, "reductions": config.reductions}
    key = (
        cost,
        config.space,
        sets.num_classes,
        sets.channels,
        *sets.size,
        *settings.values(),
        config.device,
        config.latency_batch,
    )
    if key not in _REACHED:
        with torch.random.fork_rng(devices=[]):
            net = space.build(config.space, sets.num_classes, (sets.channels, *sets.size), **settings)
        if not net.slots:
            raise KitError(
                f"space {config.space!r} is one fixed network: a limit leaves nothing to choose; use space='cell', 'choice' or 'mobile'"
            )
        timed = latency.table(net, pick_device(config.device), config.latency_batch) if cost == "latency_ms" else None
        _REACHED[key] = Limits(net, latency=timed).reach(BOUNDS[cost])
    return _REACHED[key]


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
    kept (bool), path.

    A latency is the one that the run's own limit was confirmed by; where it had none, it is taken now.
    """
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
                "path": str(run.path),
            }
        )
    return pd.DataFrame(rows)


def run_latency(run: Run) -> float:
    """Milliseconds for latency_batch images: what the run's limit was confirmed by; without one, taken now on the run's
    device.
    """
    net = run.model().network
    known = latency.recorded(run.path / "latency.json", net.picks_of(run.genotype))
    if known is not None:
        return known[0]
    return latency.time_child(
        net, net.only_child().picks, pick_device(run.config.device), run.config.latency_batch, torch.get_num_threads()
    )


def summarize(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per method and bound, tightest first: method, title, bound, n, accuracy_mean, _low, _high (Student's t,
    95%), cost_mean, cost_max.
    """
    found = []
    for (method, limit), group in rows.groupby(["method", "bound"], sort=True, dropna=False):
        low, high = interval(group["test_accuracy"])
        found.append(
            {
                "method": method,
                "title": group["title"].iloc[0],
                "bound": limit,
                "n": len(group),
                "accuracy_mean": group["test_accuracy"].mean(),
                "accuracy_low": low,
                "accuracy_high": high,
                "cost_mean": group["cost"].mean(),
                "cost_max": group["cost"].max(),
            }
        )
    return pd.DataFrame(found)


def markdown(summary: pd.DataFrame, cost: str) -> str:
    """The summary as a table."""
    title = TITLES[cost]
    lines = [
        f"| method | limit | n | test accuracy, % | 95% interval | {title} (mean) | {title} (largest) |",
        "|" + "---|" * 7,
    ]
    for row in summary.itertuples():
        spread = (
            "–" if math.isnan(row.accuracy_low) else f"{100 * row.accuracy_low:.2f} … {100 * row.accuracy_high:.2f}"
        )
        limit = (
            "none" if math.isnan(row.bound) else f"{row.bound:,.4g}" if cost == "latency_ms" else f"{row.bound:,.0f}"
        )
        costs = (
            f"{value:,.4g}" if cost == "latency_ms" else f"{value:,.0f}" for value in (row.cost_mean, row.cost_max)
        )
        lines.append(
            f"| {row.title} | {limit} | {row.n} | {100 * row.accuracy_mean:.2f} | {spread} | {' | '.join(costs)} |"
        )
    return "\n".join(lines) + "\n"


def write(runs: Sequence[Run], cost: str, folder: str | Path) -> Path:
    """limits-<dataset>-<cost>.md, .png and .json (what `rewrite` needs) in `folder`; returns the Markdown's path."""
    if not runs:
        raise KitError("no finished runs, so there is nothing to report: see the failures that the sweep listed")
    rows, name, folder = table(runs, cost), Path(runs[0].config.dataset).name, Path(folder)
    stem = f"limits-{name}-{cost}"
    picture = figures.under_limits(summarize(rows), rows, cost, title=f"{name}: accuracy under limits")
    folder.mkdir(parents=True, exist_ok=True)
    figures.save(picture, folder / f"{stem}.png")
    pictures = [(f"{stem}.png", f"accuracy against {TITLES[cost]}")]
    summaries.write(
        folder / f"{stem}.json",
        "limits",
        runs,
        "",
        pictures,
        cost=cost,
        rows=rows.drop(columns="path").to_dict("records"),
    )
    return rewrite(folder / f"{stem}.json")


def rewrite(path: str | Path) -> Path:
    """The Markdown of such a report once more, from the summary of its runs; returns its path."""
    path = Path(path)
    kept = summaries.read(path)
    runs, cost, rows = kept.runs, kept.more["cost"], pd.DataFrame(kept.more["rows"])
    config, ((picture, caption),) = runs[0].config, kept.pictures

    def each(key: str) -> str:
        return ", ".join(sorted({str(run.provenance[key]) for run in runs}))

    seeds = ", ".join(map(str, sorted(set(rows["seed"]))))
    clock = (
        f" Latency is of a batch of {config.latency_batch}, float32, on the run's device."
        if cost == "latency_ms"
        else ""
    )
    verdict = "No result breaks its limit." if rows["kept"].all() else "NOT EVERY result keeps its limit."
    text = "\n\n".join(
        [
            f"# Accuracy under limits: {Path(config.dataset).name}, {TITLES[cost]}",
            f"{len(runs)} runs of {config.epochs} epochs, preset `{config.preset}`, seeds {seeds}; tested once, on "
            f"{runs[0].metrics['test_images']:,} images. {verdict}{clock}",
            markdown(summarize(rows), cost).rstrip(),
            f"![{caption}]({picture})",
            f"Commit {each('commit')}; {each('device')}, {each('processor')}, {each('cores')} cores, {each('threads')} thread(s).",
        ]
    )
    store.atomically(path.with_suffix(".md"), lambda p: p.write_text(text + "\n"))
    return path.with_suffix(".md")
