"""Runs and methods beside each other: curves, accuracy with its intervals, accuracy against cost, agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go

from kit.errors import KitError
from kit.figures.style import GREY, INK, PALETTE, SERIES, TEMPLATE, Look, Panel, arrange, blank, log_axis, look, note
from kit.run.run import Run

SUMMARY = ("method", "title", "n", "accuracy_mean", "accuracy_low", "accuracy_high")
# from so many on: divided by so much, unit
UNITS = ((3 * 3600.0, 3600.0, " [h]"), (180.0, 60.0, " [min]"), (-1.0, 1.0, " [s]"))
COUNTS = ((1e9, 1e9, " [billions]"), (1e6, 1e6, " [millions]"), (1e3, 1e3, " [thousands]"), (-1.0, 1.0, ""))
SYMBOL = {True: "circle", False: "circle-open"}  # of methods with a solid line, and of others
FRONT = "Pareto front"
FRONTS = (
    "Up and left is better; no run reaches as much as one on a front for less. Test accuracy is reported, nothing is "
    "selected by it.<br>A front joins runs of one budget, and for wall-clock of one machine."
)
MEANS = "Dots: mean and 95% interval over seeds (of few seeds it may leave the picture); faint: single runs."


@dataclass(frozen=True)
class CostAxis:
    """What a run cost. within: the columns of a table that runs must share to stand on one front."""

    title: str
    short: str
    within: tuple[str, ...] = ("data", "budget")


COSTS = {
    "seconds": CostAxis("wall-clock of the run", "seconds", ("data", "budget", "machine")),
    "params": CostAxis("parameters", "params"),
    "macs": CostAxis("multiply-adds", "macs"),
}
BOUNDED = {"params": "parameters", "macs": "multiply-adds per image", "latency_ms": "latency"}


def _check(frame: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    missing = [name for name in columns if name not in frame]
    if missing:
        known = ", ".join(map(str, frame.columns)) or "none"
        raise KitError(f"{what} has no column {', '.join(missing)}; it has: {known}")


def _scale(cost: str, values: pd.Series) -> tuple[float, str]:
    """Factor and unit that a cost is drawn in."""
    if cost == "latency_ms":
        return 1.0, " [ms]"
    entries = UNITS if cost == "seconds" else COUNTS
    return next((entry[1:] for entry in entries if values.max() >= entry[0]), entries[-1][1:])


def _legend_below(figure: go.Figure, entries: int, height: float, below: float = 70) -> go.Figure:
    """A legend under the plot, with room for it: titles of methods are long, two or three fit into a line."""
    top, room = figure.layout.margin.t or 70, 30 + 22 * -(-entries // 2)
    legend = {"orientation": "h", "x": 0, "yref": "paper", "y": -below / (height - top - below), "yanchor": "top"}
    return figure.update_layout(showlegend=True, legend=legend, height=height + room, margin_b=below + room)


# ---- curves --------------------------------------------------------------------------------------


def _seeds_and_means(groups: Mapping[Look, Sequence[pd.Series]], title: str) -> go.Figure:
    """For each look thin lines, and bold their mean where all have values."""
    figure = go.Figure(layout={"template": TEMPLATE, "title": {"text": title}})
    for (color, name, dash), members in groups.items():
        line = {"color": color, "dash": dash}
        for values in members if len(members) > 1 else ():  # one seed alone is its mean
            figure.add_scatter(x=values.index, y=values, line=line | {"width": 1}, opacity=0.4, showlegend=False)
        mean = pd.concat(members, axis=1, join="inner").mean(axis=1)
        figure.add_scatter(x=mean.index, y=mean, name=f"{name} (n = {len(members)})", line=line | {"width": 3})
    return _legend_below(figure.update_traces(mode="lines"), len(groups), 470)


def overlay(runs: Sequence[Run], name: str) -> go.Figure:
    """One quantity of many runs: a thin line per seed, and bold the mean of a method's seeds over the epochs that all
    reached.

    name: a name of the history, such as "loss", "eta/lr" or "step/lr". Runs without it are left out; raises KitError
    where no run has it."""
    groups: dict[Look, list[pd.Series]] = {}
    for run in runs:
        if name in set(run.history["name"]):
            groups.setdefault(look(run.config.method), []).append(run.curve(name))
    if not groups:
        known = ", ".join(sorted({n for run in runs for n in run.history["name"].unique()})) or "nothing yet"
        raise KitError(f"none of the {len(runs)} runs has a curve {name!r}; they have: {known}")
    datasets = ", ".join(sorted({str(run.config.dataset) for run in runs}))
    figure = _seeds_and_means(groups, f"{datasets} · {name}")
    rate = name.removeprefix("step/").removeprefix("eta/") in ("lr", "weight_decay")
    values = [series.to_numpy() for members in groups.values() for series in members]
    figure.update_yaxes(log_axis(values) if rate else {})
    figure.update_yaxes(title_text=f"{name}{' [nats]' if 'loss' in name else ''}")
    return figure.update_xaxes(title_text="step" if name.startswith("step/") else "epoch")


def planted(curves: dict[str, list[list[float]]], steps: int, title: str) -> go.Figure:
    """How learners concentrate on what is planted. curves: of `kit.planted.watch`, by learner a list for every seed."""
    groups = {
        Look(SERIES[k % len(SERIES)], name): [pd.Series(seed, np.linspace(0, steps, len(seed))) for seed in seeds]
        for k, (name, seeds) in enumerate(curves.items())
    }
    figure = _seeds_and_means(groups, title).add_hline(y=0.8, line={"color": GREY, "width": 1, "dash": "dot"})
    figure.update_yaxes(title_text="probability on what is planted", range=[0, 1.02])
    return figure.update_xaxes(title_text="step")


# ---- means and intervals -------------------------------------------------------------------------


def _faint(method: str) -> dict[str, Any]:
    marker = {"size": 7, "color": look(method).color}
    return {"mode": "markers", "opacity": 0.4, "marker": marker, "name": f"{method}: seeds", "showlegend": False}


def _means(rows: pd.DataFrame) -> tuple[pd.Series, dict[str, Any], dict[str, Any]]:
    """Of the rows of a summary that belong to one method: means in percent, error bars, and looks of their dots."""
    mean, low, high = (100 * rows[f"accuracy_{k}"] for k in ("mean", "low", "high"))
    color, _, dash = look(str(rows["method"].iloc[0]))
    bars = {"type": "data", "symmetric": False, "array": high - mean, "arrayminus": mean - low, "width": 6}
    marker = {"size": 12, "color": color, "symbol": SYMBOL[dash == "solid"], "line": {"width": 2}}
    told = [f"{m:.2f}% [{a:.2f}, {b:.2f}], n = {n:g}" for m, a, b, n in zip(mean, low, high, rows["n"])]
    dots = {
        "mode": "markers",
        "name": rows["title"].iloc[0],
        "marker": marker,
        "hovertext": told,
        "hoverinfo": "text+name",
    }
    return mean, bars, dots


def ablation(summary: pd.DataFrame, runs: pd.DataFrame | None = None, title: str = "") -> go.Figure:
    """Test accuracy per method, in the table's order: mean with its 95% interval, and every seed as a faint dot below.

    summary: columns method, title, n, accuracy_mean, accuracy_low, accuracy_high (in [0, 1]; the interval may be NaN).
    runs: columns method, test_accuracy. Raises KitError naming the columns that are missing."""
    _check(summary, SUMMARY, "summary")
    runs = pd.DataFrame({"method": [], "test_accuracy": []}) if runs is None else runs
    _check(runs, ("method", "test_accuracy"), "runs")
    figure = go.Figure(layout={"template": TEMPLATE, "height": 130 + 52 * len(summary), "title": {"text": title}})
    for place in range(len(summary)):
        row = summary.iloc[[place]]
        method, (mean, bars, dots) = row["method"].iloc[0], _means(row)
        seeds = 100 * runs.loc[runs["method"] == method, "test_accuracy"]
        figure.add_scatter(x=seeds, y=[place + 0.24] * len(seeds), **_faint(method))
        figure.add_scatter(x=mean, y=[place], error_x=bars, **dots)
    names = [f"{row.title} (n = {row.n:g})" for row in summary.itertuples()]
    figure.update_xaxes(title_text="test accuracy [%]: mean, 95% interval, single seeds")
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.4, -0.6])
    return figure.update_layout(showlegend=False)


def accuracy_against_time(summary: pd.DataFrame, runs: pd.DataFrame | None = None, title: str = "") -> go.Figure:
    """Test accuracy over the wall-clock of a run: mean and 95% interval per method, single runs faint.

    summary: as for `ablation`, and `seconds`. runs: columns method, test_accuracy, seconds."""
    _check(summary, (*SUMMARY, "seconds"), "summary")
    rows = runs if runs is not None else pd.DataFrame({"method": [], "test_accuracy": [], "seconds": []})
    _check(rows, ("method", "test_accuracy", "seconds"), "runs")
    points = summary.assign(cost_mean=summary["seconds"])
    return _against(points, rows.rename(columns={"seconds": "cost"}), "seconds", "wall-clock of a run", title)


def under_limits(summary: pd.DataFrame, rows: pd.DataFrame, cost: str, title: str = "") -> go.Figure:
    """Accuracy over cost: for every method and limit the mean with its interval at the mean cost of what was found, and
    the single runs.

    summary: as for `ablation`, and bound (NaN: none), cost_mean; rows: columns method, bound, cost, test_accuracy;
    cost: params, macs or latency_ms. Raises KitError naming missing columns."""
    if summary.empty:
        return blank("no run is finished: there is no test accuracy yet", title)
    _check(summary, (*SUMMARY, "bound", "cost_mean"), "summary")
    _check(rows, ("method", "bound", "cost", "test_accuracy"), "rows")
    figure = _against(summary, rows, cost, f"{BOUNDED[cost]} of the network found", title)
    factor, _ = _scale(cost, rows["cost"])
    for k, bound in enumerate(sorted(summary["bound"].dropna().unique())):
        words = {"annotation_text": f"≤ {bound:,.3g} ms" if cost == "latency_ms" else f"≤ {bound:,.0f}"}
        place = {"annotation_position": "top", "annotation_yshift": 14 * (k % 2), "annotation_font_color": GREY}
        rule = {"line": {"color": GREY, "width": 1, "dash": "dot"}, "layer": "below"}
        figure.add_vline(bound / factor, **rule, **words, **place)
    least, most = 100 * rows["test_accuracy"].min(), 100 * rows["test_accuracy"].max()
    room = max(0.8 * (most - least), 0.5)  # the runs decide what is shown: two seeds' interval can span everything
    figure.update_yaxes(range=[max(0.0, least - room), min(100.0, most + room)])
    words = f"{MEANS} Dotted: the limits, of which every run stays left."
    return note(figure.update_layout(margin_t=100), words, below=figure.layout.margin.b - 22)


def _against(summary: pd.DataFrame, rows: pd.DataFrame, cost: str, axis: str, title: str) -> go.Figure:
    """Means with their intervals at `cost_mean`, joined where a method has several, and the runs at their `cost`."""
    figure = go.Figure(layout={"template": TEMPLATE, "title": {"text": title}})
    factor, unit = _scale(cost, summary["cost_mean"])
    for k, (method, group) in enumerate(summary.groupby("method", sort=False)):
        group, mine = group.sort_values("cost_mean"), rows[rows["method"] == method]
        figure.add_scatter(x=mine["cost"] / factor, y=100 * mine["test_accuracy"], **_faint(str(method)))
        mean, bars, dots = _means(group)
        words = ["no limit" if pd.isna(bound) else "" for bound in group["bound"]] if "bound" in group else []
        place = {"textposition": ("top left", "bottom right")[k % 2], "mode": "lines+markers+text"}
        text = place | {"text": words} if words else {}
        line = {"color": look(str(method)).color, "width": 1.5, "dash": look(str(method)).dash}
        figure.add_scatter(x=group["cost_mean"] / factor, y=mean, error_y=bars, line=line, **(dots | text))
    figure.update_xaxes(title_text=axis + unit).update_yaxes(title_text="test accuracy [%]: mean and 95% interval")
    return _legend_below(figure, summary["method"].nunique(), 520)


# ---- accuracy against cost -----------------------------------------------------------------------


def tradeoffs(table: pd.DataFrame, title: str = "Test accuracy against cost") -> go.Figure:
    """Test accuracy of every finished run over seconds, parameters and multiply-adds, a row of panels per data set and
    image size.

    table: `report.compare(runs).table`. Rings and the dotted line mark the Pareto fronts that the table names. Raises
    KitError naming columns that are missing."""
    needed = ("run", "data", "method", "title", "seed", "budget", "machine", "test_accuracy")
    _check(table, (*needed, *COSTS, *(f"front_{cost}" for cost in COSTS)), "the table of report.compare(runs)")
    shown = table[table["test_accuracy"].notna()]
    if shown.empty:
        return blank(f"none of the {len(table)} runs is finished: there is no test accuracy yet", title)
    columns = []
    for k, cost in enumerate(COSTS):
        panels = []
        for data, group in shown.groupby("data", sort=False):
            least, most = 100 * group["test_accuracy"].min(), 100 * group["test_accuracy"].max()
            room = max(0.12 * (most - least), 0.2)
            y = {"range": [least - room, most + room], "title": {"text": "" if k else "test accuracy [%]"}}
            heading = "" if k else f"<b>{data}</b> · n = {len(group)} run{'s' * (len(group) != 1)}"
            panels.append(Panel(heading, _dots(group, cost), y, 320, x=_cost_axis(group, cost), epochs=False))
        columns.append((k * 0.35, k * 0.35 + 0.3, panels))
    figure = arrange(columns, title, top=84, gap=110)
    methods = shown.groupby("method", sort=False)
    for method, rows in methods:
        seeds = ", ".join(f"{seed:.0f}" for seed in sorted(rows["seed"].dropna().unique())[:6])
        name = f"{rows['title'].iloc[0]} (n = {len(rows)}, seed{'s' * (len(rows) > 1)} {seeds})"
        mine = list(figure.select_traces(selector={"legendgroup": str(method)}))
        for trace in mine:
            trace.update(name=name, showlegend=trace is mine[0])
    return _legend_below(note(figure, FRONTS, below=60), len(methods), figure.layout.height + 50, 110)


def _cost_axis(group: pd.DataFrame, cost: str) -> dict[str, Any]:
    values, (factor, unit) = group[cost].dropna(), _scale(cost, group[cost])
    wide = len(values) > 0 and values.min() > 0 and values.max() / values.min() >= 20
    return {"title": {"text": COSTS[cost].title + unit}, "nticks": 5} | (log_axis([values / factor], 9) if wide else {})


def _dots(group: pd.DataFrame, cost: str) -> list[dict[str, Any]]:
    """The fronts of one panel, and a dot for every run."""
    factor, _ = _scale(cost, group[cost])

    def at(rows: pd.DataFrame) -> dict[str, Any]:
        return {"type": "scatter", "x": (rows[cost] / factor).tolist(), "y": (100 * rows["test_accuracy"]).tolist()}

    traces = []
    for _, members in group[group[f"front_{cost}"]].groupby(list(COSTS[cost].within), dropna=False):
        members = members.sort_values([cost, "test_accuracy"])
        words = [""] * (len(members) - 1) + [members["budget"].iloc[0] if group["budget"].nunique() > 1 else ""]
        line = {"color": GREY, "width": 1.5, "dash": "dot", "shape": "hv"}
        ring = {"symbol": "circle-open", "size": 17, "color": INK, "line": {"width": 1.5}}
        text = {"mode": "lines+markers+text", "text": words, "textposition": "bottom center", "name": FRONT}
        traces.append({"line": line, "marker": ring, "hoverinfo": "skip", **text, **at(members)})
    for method, rows in group.groupby("method", sort=False):
        color, _, dash = look(str(method))
        marker = {"size": 10, "color": color, "symbol": SYMBOL[dash == "solid"]}
        told = {"text": [_hover(row) for row in rows.to_dict("records")], "hovertemplate": "%{text}<extra></extra>"}
        traces.append({"mode": "markers", "marker": marker, "legendgroup": str(method), **told, **at(rows)})
    return traces


def _hover(row: dict[str, Any]) -> str:
    facts = [f"{row['test_accuracy']:.2%}", *(f"{row[k]:,.0f} {COSTS[k].short}" for k in COSTS if pd.notna(row[k]))]
    where = f"{row['title']}, seed {row['seed']:.0f}<br>{' · '.join(facts)}<br>{row['budget']}; {row['machine']}"
    return f"<b>{row['run']}</b><br>{where}"


def agreement(
    pairs: pd.DataFrame, table: pd.DataFrame, title: str = "Choices that two architectures share"
) -> go.Figure:
    """Choices that two runs' architectures have in common, of all; blank between search spaces.

    pairs, table: `report.compare(runs).agreement` and `.table`."""
    rows = table[table["run"].isin([*pairs["run"], *pairs["other"]])]
    if len(rows) < 2:
        return blank("no two runs have architectures of one search space", title)
    short = [f"{r.method} {r.seed:.0f}" for r in rows.itertuples()]
    names = [s if short.count(s) == 1 else f"{s} ({r.data}, {r.run[-8:]})" for s, r in zip(short, rows.itertuples())]
    place = dict(zip(rows["run"], range(len(rows))))
    shared: np.ndarray = np.full((len(rows), len(rows)), np.nan)
    for pair in pairs.itertuples():
        i, j = place[pair.run], place[pair.other]
        shared[i, j] = shared[j, i] = 100 * pair.shared / pair.of
    labels = {"x": "run: method, seed", "y": "run: method, seed", "color": "shared [%]"}
    scale = {"range_color": [0, 100], "color_continuous_scale": ["#F7F7F7", PALETTE["sky"]], "text_auto": ".0f"}
    figure = px.imshow(shared, x=names, y=names, labels=labels, template=TEMPLATE, title=title, **scale)
    figure.update_layout(height=max(430, 240 + 30 * len(rows)))
    return figure.update_xaxes(tickangle=-35, showgrid=False).update_yaxes(showgrid=False)
