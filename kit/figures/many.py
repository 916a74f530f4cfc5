"""Runs and methods beside each other: curves of seeds with their mean, accuracies with their intervals, accuracy
against cost."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go

from kit.figures.style import DOTTED, SERIES, TEMPLATE, Look, look, name_facets
from kit.run.run import Run

COSTS = {
    "seconds": "wall-clock of a run [s]",
    "params": "parameters",
    "macs": "multiply-adds per image",
    "latency_ms": "latency [ms]",
}
ACCURACY = "test accuracy [%]"


def overlay(runs: Sequence[Run], name: str) -> go.Figure:
    """One quantity of many runs: a thin line per seed, and bold the mean of a method's seeds over the epochs that all
    reached. name: a name of the history, such as "loss" or "eta/lr". Raises KitError for a run without it."""
    groups: dict[Look, list[pd.Series]] = {}
    for run in runs:
        groups.setdefault(look(run.config.method), []).append(run.curve(name))
    datasets = ", ".join(sorted({str(run.config.dataset) for run in runs}))
    unit = " [nats]" if "loss" in name else ""
    return _seeds_and_means(groups, title=f"{datasets} · {name}", xaxis_title="epoch", yaxis_title=f"{name}{unit}")


def planted(curves: Mapping[str, Sequence[Sequence[float]]], steps: int, title: str) -> go.Figure:
    """How learners concentrate on what is planted. curves: of `kit.planted.watch`, by learner a list for every seed."""
    groups = {
        Look(color, name): [pd.Series(seed, np.linspace(0, steps, len(seed))) for seed in seeds]
        for color, (name, seeds) in zip(SERIES * len(curves), curves.items())
    }
    words = {"title": title, "xaxis_title": "step", "yaxis_title": "probability on what is planted"}
    return _seeds_and_means(groups, yaxis_range=[0, 1.02], **words).add_hline(0.8, line=DOTTED)


def _seeds_and_means(groups: Mapping[Look, Sequence[pd.Series]], **layout: Any) -> go.Figure:
    figure = go.Figure().update_layout(template=TEMPLATE, showlegend=True, **layout)
    for (color, name, dash), members in groups.items():
        line = {"color": color, "dash": dash}
        for values in members if len(members) > 1 else ():  # one seed alone is its mean
            figure.add_scatter(x=values.index, y=values, line=line | {"width": 1}, opacity=0.4, showlegend=False)
        mean = pd.concat(members, axis=1, join="inner").mean(axis=1)
        figure.add_scatter(x=mean.index, y=mean, name=f"{name} (n = {len(members)})", line=line | {"width": 3})
    return _legend_below(figure.update_traces(mode="lines"), 560)


def ablation(summary: pd.DataFrame, runs: pd.DataFrame, title: str = "") -> go.Figure:
    """Test accuracy per method, in the table's order: mean with its 95% interval, and every seed as a faint dot.

    summary: columns method, title, n, accuracy_mean, accuracy_low, accuracy_high (in [0, 1]; the interval may be NaN).
    runs: columns method, test_accuracy."""
    figure = _means(summary, ACCURACY, "method", error_x="above", error_x_minus="below", title=title)
    figure.add_traces(_single(runs, ACCURACY, "method"))
    names = (summary["title"] + " (n = " + summary["n"].astype(str) + ")").tolist()
    figure.update_yaxes(title_text="", tickvals=summary["method"].tolist(), ticktext=names)
    return figure.update_layout(showlegend=False, height=150 + 50 * len(names))


def accuracy_against_time(summary: pd.DataFrame, title: str = "") -> go.Figure:
    """Test accuracy over the wall-clock of a run: mean and 95% interval per method. summary: as for `ablation`, and
    seconds."""
    figure = _means(summary, "seconds", ACCURACY, error_y="above", error_y_minus="below", title=title)
    return _legend_below(figure.update_xaxes(title_text=COSTS["seconds"]), 560)


def under_limits(summary: pd.DataFrame, rows: pd.DataFrame, cost: str, title: str = "") -> go.Figure:
    """Accuracy over cost: for every method and limit the mean with its interval at the mean cost of what was found, and
    the single runs, faint; dotted the limits, of which every run stays left.

    summary: as for `ablation`, and bound (NaN: none), cost_mean; rows: columns method, bound, cost, test_accuracy;
    cost: params, macs or latency_ms."""
    found = summary.sort_values(["method", "cost_mean"])
    figure = _means(found, "cost_mean", ACCURACY, error_y="above", error_y_minus="below", title=title)
    figure.update_traces(mode="lines+markers").add_traces(_single(rows, "cost", ACCURACY))
    for k, bound in enumerate(sorted(summary["bound"].dropna().unique())):
        words = {"annotation_text": f"≤ {round(bound, 2):,.10g}", "annotation_yshift": 14 * (k % 2)}
        figure.add_vline(bound, line=DOTTED, annotation_position="top", **words)
    least, most = 100 * rows["test_accuracy"].min(), 100 * rows["test_accuracy"].max()
    room = max(0.8 * (most - least), 0.5)  # the runs decide what is shown: two seeds' interval can span everything
    figure.update_yaxes(range=[max(0.0, least - room), min(100.0, most + room)])
    return _legend_below(figure.update_xaxes(title_text=f"{COSTS[cost]}; dotted: the limits"), 560)


def tradeoffs(table: pd.DataFrame) -> go.Figure:
    """Test accuracy of every finished run over seconds, parameters and multiply-adds, a row of panels per data set.

    table: `kit.studies.tables.compare(runs).table`."""
    kept = ["run", "data", "method", ACCURACY]
    points = table.assign(**{ACCURACY: 100 * table["test_accuracy"]})
    points = points.melt(kept, ["seconds", "params", "macs"], "cost", "paid").replace({"cost": COSTS})
    rows = points["data"].nunique()
    facets = {"facet_col": "cost", "facet_row": "data", "facet_row_spacing": 0.2 / rows, "facet_col_spacing": 0.06}
    looks = {"title": "Test accuracy against cost", "hover_name": "run", **facets, **_looks(points)}
    figure = name_facets(px.scatter(points, x="paid", y=ACCURACY, **looks))
    figure.update_traces(marker_size=10).update_xaxes(matches=None, title_text="")
    return _legend_below(figure, 170 + 330 * rows)


def _means(summary: pd.DataFrame, x: str, y: str, **more: Any) -> go.Figure:
    """Mean accuracies, and in the columns above and below how far their intervals reach."""
    mean, low, high = (100 * summary[f"accuracy_{k}"] for k in ("mean", "low", "high"))
    points = summary.assign(**{ACCURACY: mean, "above": high - mean, "below": mean - low})
    labels = {ACCURACY: f"{ACCURACY}: mean and 95% interval"}
    return px.scatter(points, x=x, y=y, labels=labels, **more, **_looks(points)).update_traces(marker_size=11)


def _single(runs: pd.DataFrame, x: str, y: str) -> Sequence[go.Scatter]:
    """Faint dots."""
    points = runs.assign(**{ACCURACY: 100 * runs["test_accuracy"]})
    return px.scatter(points, x=x, y=y, opacity=0.4, **_looks(runs)).update_traces(showlegend=False).data


def _looks(rows: pd.DataFrame) -> dict[str, Any]:
    """The methods' colours and symbols, for plotly.express."""
    looks = {method: look(method) for method in rows["method"]}
    symbols = {method: "circle" if of.dash == "solid" else "circle-open" for method, of in looks.items()}
    colors = {method: of.color for method, of in looks.items()}
    by_method = {"color": "method", "color_discrete_map": colors, "symbol": "method", "symbol_map": symbols}
    return {"template": TEMPLATE, **by_method}


def _legend_below(figure: go.Figure, height: int) -> go.Figure:
    """A legend of the methods' titles, which are long."""
    legend = {"orientation": "h", "y": -100 / height, "yanchor": "top", "title": {"text": ""}}
    figure.for_each_trace(lambda trace: trace.update(name=look(trace.name).title if trace.legendgroup else trace.name))
    return figure.update_layout(height=height, legend=legend)
