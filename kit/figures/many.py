"""Runs and methods beside each other: curves, accuracy with its intervals, accuracy against cost, agreement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go

from kit.errors import KitError
from kit.figures.record import Record
from kit.figures.style import (
    GREY,
    INK,
    PALETTE,
    SERIES,
    TEMPLATE,
    Panel,
    arrange,
    blank,
    legend_below_title,
    log_axis,
    look,
    note,
)
from kit.run.run import Run

SUMMARY = ("method", "title", "n", "accuracy_mean", "accuracy_low", "accuracy_high")
UNITS = ((3 * 3600.0, 3600.0, "h"), (180.0, 60.0, "min"), (0.0, 1.0, "s"))  # from so many seconds on: this unit
COUNTS = ((1e9, 1e9, "billions"), (1e6, 1e6, "millions"), (1e3, 1e3, "thousands"), (-1.0, 1.0, ""))
FRONT = "Pareto front"
FRONTS = (
    "Up and left is better; no run reaches as much as one on a front for less. Test accuracy is reported, nothing is selected "
    "by it.<br>A front joins runs of one budget, and for wall-clock of one machine."
)


@dataclass(frozen=True)
class Cost:
    """What a run cost. within: the columns that runs must share to stand on one front; empty for no fronts."""

    title: str
    short: str
    within: tuple[str, ...] = ("data", "budget")


COSTS = {
    "seconds": Cost("wall-clock of the run", "seconds", ("data", "budget", "machine")),
    "params": Cost("parameters", "params"),
    "macs": Cost("multiply-adds", "macs"),
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
    entries, most = UNITS if cost == "seconds" else COUNTS, values.max()
    factor, unit = next((factor, unit) for least, factor, unit in entries if most >= least or least == entries[-1][0])
    return factor, f" [{unit}]" if unit else ""


def _legend_below(figure: go.Figure, entries: int, height: float) -> go.Figure:
    """A legend under the plot, with room for it: titles of methods are long, three fit into a line."""
    room = 30 + 22 * -(-entries // 3)
    legend = {"orientation": "h", "x": 0, "y": -70 / (height - 130), "yanchor": "top"}
    return figure.update_layout(showlegend=True, legend=legend, height=height + room, margin_b=70 + room)


# ---- curves --------------------------------------------------------------------------------------


def overlay(runs: Sequence[Run], name: str) -> go.Figure:
    """One quantity of many runs: a thin line per seed, and bold the mean of a method's seeds over the epochs that all
    reached.

    name: a name of the history, such as "loss", "eta/lr" or "step/lr". Runs without it are left out; raises KitError
    where no run has it."""
    groups: dict[str, list[pd.Series]] = {}
    for run in runs:
        if name in set(run.history["name"]):
            groups.setdefault(run.config.method, []).append(run.curve(name))
    if not groups:
        known = sorted({n for run in runs for n in run.history["name"].unique()})
        raise KitError(
            f"none of the {len(runs)} runs has a curve {name!r}; they have: {', '.join(known) or 'nothing yet'}"
        )
    figure = go.Figure(layout={"template": TEMPLATE})
    for method, members in groups.items():
        color, title, dash = look(method)
        line = {"color": color, "dash": dash}
        for values in members if len(members) > 1 else ():  # one seed alone is its mean
            figure.add_scatter(x=values.index, y=values, line={**line, "width": 1}, opacity=0.4, showlegend=False)
        mean = pd.concat(members, axis=1, join="inner").mean(axis=1)
        figure.add_scatter(x=mean.index, y=mean, name=f"{title} (n = {len(members)})", line={**line, "width": 3})
    figure.update_traces(mode="lines")
    datasets = ", ".join(sorted({str(run.config.dataset) for run in runs}))
    unit = " [nats]" if "loss" in name else ""
    positive = name.removeprefix("step/").startswith(("lr", "eta/", "weight_decay"))
    axis = log_axis([values.to_numpy() for members in groups.values() for values in members]) if positive else {}
    figure.update_layout(title_text=f"{datasets} · {name}", yaxis={"title": {"text": f"{name}{unit}"}, **axis})
    figure.update_xaxes(title_text="step" if name.startswith("step/") else "epoch")
    return _legend_below(figure, len(groups), 480)


def planted(curves: dict[str, list[list[float]]], steps: int, title: str) -> go.Figure:
    """How learners concentrate on what is planted. curves: of `kit.planted.watch`; bold: the mean over seeds."""
    figure = go.Figure(layout={"template": TEMPLATE, "title": {"text": title}})
    for (name, seeds), color in zip(curves.items(), SERIES * len(curves)):
        x = np.linspace(0, steps, len(seeds[0]))
        for curve in seeds:
            figure.add_scatter(x=x, y=curve, line={"color": color, "width": 0.7}, opacity=0.4, showlegend=False)
        figure.add_scatter(
            x=x, y=np.mean(seeds, axis=0), name=f"{name} (n={len(seeds)})", line={"color": color, "width": 3}
        )
    figure.update_traces(mode="lines").add_hline(y=0.8, line={"color": GREY, "width": 1, "dash": "dot"})
    figure.update_xaxes(title_text="step").update_yaxes(title_text="probability on what is planted", range=[0, 1.02])
    return _legend_below(figure, len(curves), 460)


# ---- means and intervals -------------------------------------------------------------------------


def _mean(row: Any) -> tuple[float, dict[str, Any] | None, str]:
    """(mean, plotly's error bars or None for one seed, words), in percent, of a row of a summary."""
    mean, low, high = (100 * getattr(row, f"accuracy_{k}") for k in ("mean", "low", "high"))
    known = pd.notna(low) and pd.notna(high)
    bars = {"type": "data", "symmetric": False, "array": [high - mean], "arrayminus": [mean - low], "width": 6}
    words = f"{row.title}<br>{mean:.2f}%{f' [{low:.2f}, {high:.2f}]' if known else ''}, n = {row.n:g}"
    return mean, bars if known else None, f"{words}<extra></extra>"


def _dot(row: Any) -> dict[str, Any]:
    color, _, dash = look(row.method)
    marker = {
        "size": 12,
        "color": color,
        "symbol": "circle" if dash == "solid" else "circle-open",
        "line": {"width": 2},
    }
    return {"mode": "markers", "name": row.title, "marker": marker, "hovertemplate": _mean(row)[2]}


def ablation(summary: pd.DataFrame, runs: pd.DataFrame | None = None, title: str = "") -> go.Figure:
    """Test accuracy per method, in the table's order: mean with its 95% interval, and every seed as a faint dot below.

    summary: columns method, title, n, accuracy_mean, accuracy_low, accuracy_high (in [0, 1]; the interval may be NaN).
    runs: columns method, test_accuracy. Raises KitError naming the columns that are missing."""
    _check(summary, SUMMARY, "summary")
    if runs is not None:
        _check(runs, ("method", "test_accuracy"), "runs")
    layout = {"template": TEMPLATE, "height": 130 + 52 * len(summary), "showlegend": False, "title": {"text": title}}
    figure = go.Figure(layout=layout)
    for place, row in enumerate(summary.itertuples()):
        mean, bars, _ = _mean(row)
        if runs is not None:
            seeds = 100 * runs.loc[runs["method"] == row.method, "test_accuracy"]
            faint = {"mode": "markers", "opacity": 0.45, "marker": {"size": 7, "color": look(row.method).color}}
            figure.add_scatter(x=seeds, y=[place + 0.24] * len(seeds), name=f"{row.title}: seeds", **faint)
        figure.add_scatter(x=[mean], y=[place], error_x=bars, **_dot(row))
    if len(summary):
        best = 100 * float(summary["accuracy_mean"].max())
        figure.add_vline(best, layer="below", line={"color": GREY, "width": 1, "dash": "dot"})
    names = [f"{row.title} (n = {row.n:g})" for row in summary.itertuples()]
    axis = {"tickvals": list(range(len(names))), "ticktext": names, "range": [len(names) - 0.4, -0.6]}
    figure.update_xaxes(title_text="test accuracy [%]: mean, 95% interval, single seeds")
    return figure.update_yaxes(**axis, title_text="method")


def accuracy_against_time(summary: pd.DataFrame, runs: pd.DataFrame | None = None, title: str = "") -> go.Figure:
    """Test accuracy over the wall-clock of a run: mean and 95% interval per method, single runs faint.

    summary: as for `ablation`, and `seconds`. runs: columns method, test_accuracy, seconds."""
    _check(summary, (*SUMMARY, "seconds"), "summary")
    factor, unit = _scale("seconds", summary["seconds"])
    figure = go.Figure(layout={"template": TEMPLATE, "title": {"text": title}})
    if runs is not None:
        _check(runs, ("method", "test_accuracy", "seconds"), "runs")
        colors = [look(str(method)).color for method in runs["method"]]
        faint = {"mode": "markers", "opacity": 0.35, "marker": {"size": 6, "color": colors}, "showlegend": False}
        figure.add_scatter(x=runs["seconds"] / factor, y=100 * runs["test_accuracy"], name="runs", **faint)
    for row in summary.itertuples():
        mean, bars, _ = _mean(row)
        figure.add_scatter(x=[row.seconds / factor], y=[mean], error_y=bars, **_dot(row))
    figure.update_xaxes(title_text=f"wall-clock of a run{unit}")
    figure.update_yaxes(title_text="test accuracy [%]: mean and 95% interval")
    return _legend_below(figure, len(summary), 520)


def under_limits(summary: pd.DataFrame, rows: pd.DataFrame, cost: str, title: str = "") -> go.Figure:
    """Accuracy over cost: for every method and limit the mean with its interval at the mean cost of what was found, and
    the single runs.

    summary: as for `ablation`, and bound (NaN: none), cost_mean; rows: columns method, bound, cost, test_accuracy; cost:
    params, macs or latency_ms. Raises KitError naming missing columns."""
    if summary.empty:
        return blank("no run is finished: there is no test accuracy yet", title)
    _check(summary, (*SUMMARY, "bound", "cost_mean"), "summary")
    _check(rows, ("method", "bound", "cost", "test_accuracy"), "rows")
    figure = go.Figure(layout={"template": TEMPLATE, "title": {"text": title}})
    factor, unit = _scale(cost, rows["cost"])
    for method, group in summary.sort_values("cost_mean").groupby("method", sort=False):
        color, _, dash = look(str(method))
        mine, mean = rows[rows["method"] == method], 100 * group["accuracy_mean"]
        faint = {"mode": "markers", "opacity": 0.35, "marker": {"size": 7, "color": color}, "showlegend": False}
        figure.add_scatter(x=mine["cost"] / factor, y=100 * mine["test_accuracy"], name=f"{method}: runs", **faint)
        bars = {"type": "data", "symmetric": False, "array": (100 * group["accuracy_high"] - mean).fillna(0)}
        bars |= {"arrayminus": (mean - 100 * group["accuracy_low"]).fillna(0), "color": color, "width": 6}
        words = ["no limit" if math.isnan(bound) else "" for bound in group["bound"]]
        look_ = {"line": {"color": color, "width": 1.5, "dash": dash}, "marker": {"size": 12, "color": color}}
        text = {"mode": "lines+markers+text", "text": words, "textposition": "middle right"}
        x = group["cost_mean"] / factor
        figure.add_scatter(x=x, y=mean, error_y=bars, name=group["title"].iloc[0], **look_, **text)
    for k, bound in enumerate(sorted(summary["bound"].dropna().unique())):
        words = f"≤ {bound:,.3g} ms" if cost == "latency_ms" else f"≤ {bound:,.0f}"
        line = {"color": GREY, "width": 1.2, "dash": "dot"}
        place = {"annotation_position": "top", "annotation_yshift": 14 * (k % 2), "annotation_font_color": GREY}
        figure.add_vline(bound / factor, line=line, layer="below", annotation_text=words, **place)
    figure.update_xaxes(title_text=f"{BOUNDED[cost]} of the network found{unit}")
    least, most = 100 * rows["test_accuracy"].min(), 100 * rows["test_accuracy"].max()
    room = max(0.8 * (most - least), 0.5)  # the runs decide what is shown: two seeds' interval can span everything
    figure.update_yaxes(title_text="test accuracy [%]", range=[max(0.0, least - room), min(100.0, most + room)])
    _legend_below(figure, summary["method"].nunique(), 560).update_layout(margin_t=100)
    words = "Dots: mean and 95% interval over seeds (of few seeds it may leave the picture); faint: single runs."
    return note(
        figure, f"{words} Dotted: the limits, of which every run stays left.", below=figure.layout.margin.b - 25
    )


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
            reach = 100 * group["test_accuracy"].min(), 100 * group["test_accuracy"].max()
            room = max(0.12 * (reach[1] - reach[0]), 0.2)
            y = {"range": [reach[0] - room, reach[1] + room], "title": {"text": "" if k else "test accuracy [%]"}}
            heading = "" if k else f"<b>{data}</b> · n = {len(group)} run{'s' * (len(group) != 1)}"
            x, traces = _costs(group, cost)
            panels.append(Panel(heading, traces, {**y, "showticklabels": k == 0}, 320, x=x, epochs=False))
        columns.append((k * 0.35, k * 0.35 + 0.3, panels))
    figure = arrange(columns, title, top=84, gap=110)
    legend = []
    for method, rows in shown.groupby("method", sort=False):
        seeds = ", ".join(f"{seed:.0f}" for seed in sorted(rows["seed"].dropna().unique())[:6])
        name = f"{rows['title'].iloc[0]} (n = {len(rows)}, seed{'s' * (len(rows) > 1)} {seeds})"
        figure.for_each_trace(lambda trace, name=name: trace.update(name=name), selector={"legendgroup": method})
        first = next(figure.select_traces(selector={"legendgroup": method}))
        first.showlegend = True
        legend.append(name)
    figure = _legend_below(note(figure, FRONTS, below=60), len(legend), figure.layout.height + 50)
    return figure.update_layout(
        legend_y=figure.layout.legend.y - 50 / figure.layout.height, margin_b=figure.layout.margin.b + 50
    )


def _costs(group: pd.DataFrame, cost: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The x axis and the traces of one panel: the fronts, and a dot for every run."""
    known = group[group[cost].notna()]
    factor, unit = _scale(cost, known[cost])
    wide = len(known) > 0 and known[cost].min() > 0 and known[cost].max() / known[cost].min() >= 20
    axis = {"title": {"text": COSTS[cost].title + unit}} | (
        log_axis([known[cost] / factor], 9) if wide else {"nticks": 5}
    )
    traces = []
    for _, members in known[known[f"front_{cost}"]].groupby(list(COSTS[cost].within), dropna=False):
        members = members.sort_values([cost, "test_accuracy"])
        words = [""] * (len(members) - 1) + [members["budget"].iloc[0] if group["budget"].nunique() > 1 else ""]
        line = {"color": GREY, "width": 1.5, "dash": "dot", "shape": "hv"}
        ring = {"symbol": "circle-open", "size": 17, "color": INK, "line": {"width": 1.5}}
        text = {"mode": "lines+markers+text", "text": words, "textposition": "bottom center", "name": FRONT}
        traces.append({"line": line, "marker": ring, "hoverinfo": "skip", **text} | _at(members, cost, factor))
    for method, rows in group.groupby("method", sort=False):
        color, _, dash = look(str(method))
        marker = {
            "size": 10,
            "color": color,
            "symbol": "circle" if dash == "solid" else "circle-open",
            "line": {"width": 2},
        }
        dots = {"mode": "markers", "marker": marker, "legendgroup": method, "hovertemplate": "%{text}<extra></extra>"}
        traces.append(dots | {"text": [_hover(row) for row in rows.to_dict("records")]} | _at(rows, cost, factor))
    return axis, traces


def _at(rows: pd.DataFrame, cost: str, factor: float) -> dict[str, Any]:
    return {"type": "scatter", "x": (rows[cost] / factor).tolist(), "y": (100 * rows["test_accuracy"]).tolist()}


def _hover(row: dict[str, Any]) -> str:
    units = {"seconds": "s", "params": "parameters", "macs": "multiply-adds"}
    facts = [f"{row['test_accuracy']:.2%}", *(f"{row[k]:,.0f} {unit}" for k, unit in units.items() if pd.notna(row[k]))]
    where = f"{row['title']}, seed {row['seed']:.0f}<br>{' · '.join(facts)}<br>{row['budget']}; {row['machine']}"
    return f"<b>{row['run']}</b><br>{where}"


def agreement(
    pairs: pd.DataFrame, table: pd.DataFrame, title: str = "How many choices two architectures share"
) -> go.Figure:
    """Choices that two runs' architectures have in common, of all; blank between search spaces.

    pairs, table: `report.compare(runs).agreement` and `.table`."""
    rows = table[table["run"].isin([*pairs["run"], *pairs["other"]])]
    if len(rows) < 2:
        return blank("no two runs have architectures of one search space", title)
    short = [f"{r.method} {r.seed:.0f}" for r in rows.itertuples()]
    names = [s if short.count(s) == 1 else f"{s} ({r.data}, {r.run[-8:]})" for s, r in zip(short, rows.itertuples())]
    place = dict(zip(rows["run"], range(len(rows))))
    shared: list[list[float | None]] = [[None] * len(rows) for _ in range(len(rows))]
    for pair in pairs.itertuples():
        i, j = place[pair.run], place[pair.other]
        shared[i][j] = shared[j][i] = 100 * pair.shared / pair.of
    labels = {"x": "run: method, seed", "y": "run: method, seed", "color": "shared [%]"}
    scale = [[0, "#F7F7F7"], [1, PALETTE["sky"]]]
    figure = px.imshow(
        np.array(shared, dtype=float), x=names, y=names, labels=labels, range_color=[0, 100], text_auto=".0f"
    )
    figure.update_layout(template=TEMPLATE, title_text=title, height=max(430, 240 + 30 * len(rows)))
    figure.update_coloraxes(colorscale=scale, colorbar={"title": {"side": "right"}, "thickness": 16, "outlinewidth": 0})
    return figure.update_xaxes(tickangle=-35, showgrid=False).update_yaxes(showgrid=False)
