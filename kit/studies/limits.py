"""Accuracy under limits: one search under several bounds on one cost, and what came of them."""

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from kit import figures
from kit.config import Config
from kit.errors import KitError, unknown
from kit.run.provenance import pick_device
from kit.run.run import Run
from kit.search import build
from kit.space import latency
from kit.space.limits import Limits
from kit.studies import study, tables

TEMPLATE = "limits.md.j2"
TITLES = {"params": "parameters", "macs": "multiply-adds", "latency_ms": "latency, ms"}


def configs(cost: str, shares: str, methods: str, seeds: int | str, values: dict[str, Any]) -> list[Config]:
    """Every method and seed under every share of the range of `cost` (params, macs, latency_ms) that its space reaches.
    shares: numbers with commas, from 0, the cheapest children only, to 1, no limit. The rest as for `study.grid`."""
    if cost not in TITLES:
        raise unknown("cost", cost, TITLES)
    asked = sorted(set(pd.to_numeric(pd.Series(str(shares).split(",")), errors="coerce")))
    if not all(0 <= share <= 1 for share in asked):
        raise KitError(f"shares={shares!r}: give numbers from 0 to 1 with commas, such as 0.25,0.5,1 (1: no limit)")
    found = []
    for config in study.grid("ablation", methods, seeds, values):
        low, high = _reach(config.but(seed=0), cost)
        for share in asked:
            at = low + share * (high - low)
            bound = float(f"{at:.4g}") if cost == "latency_ms" else math.floor(at)
            found.append(config if share == 1 else config.but(**{f"max_{cost}": bound}))
    return found


@functools.cache  # seeds share it, and a latency would be taken anew for each
def _reach(config: Config, cost: str) -> tuple[float, float]:
    device = pick_device(config.device)
    with torch.random.fork_rng(devices=[]):
        net = build.Plan(config, config.stages[0], config.sets(), device).network(full=True)
    if not net.slots:
        raise KitError(f"space {config.space!r} is one fixed network: a limit leaves nothing to choose; take 'cell'")
    timed = latency.table(net, device, config.latency_batch) if cost == "latency_ms" else None
    return Limits(net, latency=timed).reach(f"max_{cost}")


def table(runs: Sequence[Run], cost: str) -> pd.DataFrame:
    """One row per finished run: method, title, seed, test_accuracy, bound (NaN: none), cost of what it found, kept."""
    rows = tables.per_run(runs)[["method", "title", "seed", "test_accuracy"]]
    bounds = pd.Series([getattr(run.config, f"max_{cost}") for run in runs], dtype=float)
    costs = pd.Series([run_latency(run) if cost == "latency_ms" else run.metrics[cost] for run in runs])
    return rows.assign(bound=bounds, cost=costs, kept=bounds.isna() | (costs <= bounds))


def run_latency(run: Run) -> float:
    """Milliseconds for latency_batch images: what the run's limit was kept by; without one, taken now."""
    net = run.model().network
    if table := latency.stored(run.path / "latency.json"):
        return table.predict(net.picks_of(run.genotype))
    return latency.time_child(net, net.only_child().picks, pick_device(run.config.device), run.config.latency_batch)


def summarize(rows: pd.DataFrame) -> pd.DataFrame:
    """`tables.grouped` by method and bound, tightest first, with cost_mean and cost_max, and `tables.beside_chance`."""
    rows, by = rows.sort_values(["method", "bound"]), ["method", "bound"]
    parts = rows.groupby("bound", dropna=False)
    beside = pd.concat([tables.beside_chance(part).assign(bound=bound).reset_index() for bound, part in parts])
    summary = tables.grouped(rows, by, cost_mean=("cost", "mean"), cost_max=("cost", "max"))
    return summary.merge(beside, on=by, how="left")


def formatted(summary: pd.DataFrame, cost: str) -> pd.DataFrame:
    form = "{:,.4g}" if cost == "latency_ms" else "{:,.0f}"
    shown = {"method": summary["title"], "limit": summary["bound"].map(form.format).replace("nan", "none")}
    shown |= {"n": summary["n"], "test accuracy, % [95%]": tables.bounded(summary, tables.ACCURACY)}
    shown |= tables.to_chance(summary)
    shown |= {f"{TITLES[cost]} ({end})": summary[f"cost_{end}"].map(form.format) for end in ("mean", "max")}
    return pd.DataFrame(shown)


def gather(kind: str, runs: Sequence[Run], cost: str) -> tuple[list[tuple], dict[str, Any]]:
    rows, title = table(runs, cost), f"{Path(runs[0].config.dataset).name}: accuracy under limits"
    figure = figures.under_limits(summarize(rows), rows, cost, title=title)
    return [("", f"accuracy against {TITLES[cost]}", figure)], {"cost": cost, "rows": rows.to_dict("records")}


def contents(kept: dict[str, Any], runs: Sequence[Run]) -> dict[str, Any]:
    rows, cost = pd.DataFrame(kept["rows"]), kept["cost"]
    title = f"Accuracy under limits: {Path(runs[0].config.dataset).name}, {TITLES[cost]}"
    return {"title": title, "rows": rows, "table": formatted(summarize(rows), cost)}
