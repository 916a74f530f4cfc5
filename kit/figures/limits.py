"""Test accuracy under limits on what the architecture may cost."""

from __future__ import annotations

import math

import pandas as pd
import plotly.graph_objects as go

from kit.errors import KitError
from kit.figures.style import GREY, TEMPLATE, blank, legend_below_title, method_look

COSTS = {"params": "parameters", "macs": "multiply-adds per image", "latency_ms": "latency"}
SUMMARY = ("method", "title", "bound", "n", "accuracy_mean", "accuracy_low", "accuracy_high", "cost_mean")
ROWS = ("method", "bound", "cost", "test_accuracy")
NOTE = (
    "Dots: mean and 95% interval over seeds (of few seeds it may leave the picture); faint: single runs. Dotted lines: the limits; "
    "every run stays left of its own."
)


def under_limits(summary: pd.DataFrame, rows: pd.DataFrame, cost: str, title: str = "") -> go.Figure:
    """Accuracy over cost: for every method and limit the mean with its interval at the mean cost of what was found, and
    the single runs.

    summary, rows: from `kit.tradeoff.summarize` and `.table`; cost: params, macs or latency_ms. Raises KitError naming
    missing columns.
    """
    for frame, needed, name in ((summary, SUMMARY, "summary"), (rows, ROWS, "rows")):
        missing = [column for column in needed if column not in frame]
        if missing and len(frame):
            raise KitError(f"{name} has no column {', '.join(missing)}; it has: {', '.join(map(str, frame.columns))}")
    if summary.empty:
        return blank("no run is finished: there is no test accuracy yet", title)
    figure = go.Figure(layout={"template": TEMPLATE, "height": 600, "title": {"text": title}})
    factor, unit = _scale(cost, rows["cost"])
    for method, group in summary.groupby("method", sort=False):
        _points(figure, str(method), group, rows[rows["method"] == method], factor)
    for number, bound in enumerate(sorted(summary["bound"].dropna().unique())):
        figure.add_shape(
            type="line",
            x0=bound / factor,
            x1=bound / factor,
            y0=0,
            y1=1,
            yref="y domain",
            layer="below",
            line={"color": GREY, "width": 1.2, "dash": "dot"},
        )
        figure.add_annotation(
            x=bound / factor,
            y=1,
            yref="y domain",
            yanchor="bottom",
            yshift=14 * (number % 2),
            text=f"≤ {_number(bound, cost)}",
            showarrow=False,
            font={"size": 12, "color": GREY},
        )
    figure.update_xaxes(title_text=f"{COSTS[cost]} of the network found{unit}")
    least, most = 100 * rows["test_accuracy"].min(), 100 * rows["test_accuracy"].max()
    room = max(0.8 * (most - least), 0.5)  # the runs decide what is shown: two seeds' interval can span everything
    figure.update_yaxes(title_text="test accuracy [%]", range=[max(0.0, least - room), min(100.0, most + room)])
    several = summary["method"].nunique() > 1
    figure.update_layout(
        legend=legend_below_title(600), showlegend=several, margin={"t": 130 if several else 95, "b": 100}
    )
    return figure.add_annotation(
        text=NOTE,
        xref="paper",
        yref="paper",
        x=0,
        y=0,
        xanchor="left",
        yanchor="top",
        yshift=-52,
        showarrow=False,
        align="left",
        font={"size": 12, "color": GREY},
    )


def _points(figure: go.Figure, method: str, group: pd.DataFrame, rows: pd.DataFrame, factor: float) -> None:
    color, dash = method_look(method)
    group = group.sort_values("cost_mean")
    figure.add_trace(
        go.Scatter(
            x=(rows["cost"] / factor).tolist(),
            y=(rows["test_accuracy"] * 100).tolist(),
            mode="markers",
            opacity=0.35,
            name=f"{method}: runs",
            showlegend=False,
            marker={"size": 7, "color": color},
            hovertemplate="%{x:.4g}: %{y:.2f}%<extra>one run</extra>",
        )
    )
    mean, low, high = (100 * group[f"accuracy_{k}"] for k in ("mean", "low", "high"))
    bars = {
        "type": "data",
        "symmetric": False,
        "array": (high - mean).fillna(0).tolist(),
        "arrayminus": (mean - low).fillna(0).tolist(),
        "color": color,
        "thickness": 2,
        "width": 6,
    }
    words = ["no limit" if math.isnan(bound) else "" for bound in group["bound"]]
    hover = [
        f"{row.title}<br>{100 * row.accuracy_mean:.2f}%, n = {row.n}<br>limit {'none' if math.isnan(row.bound) else f'{row.bound:,.4g}'}"
        for row in group.itertuples()
    ]
    x, name = (group["cost_mean"] / factor).tolist(), str(group["title"].iloc[0])
    figure.add_trace(
        go.Scatter(
            x=x,
            y=mean.tolist(),
            mode="lines+markers+text",
            name=name,
            line={"color": color, "width": 1.5, "dash": dash},
            marker={"size": 12, "color": color},
            text=words,
            textposition="middle right",
            textfont={"size": 12, "color": color},
            error_y=bars,
            hovertext=hover,
            hovertemplate="%{hovertext}<extra></extra>",
        )
    )


def _scale(cost: str, values: pd.Series) -> tuple[float, str]:
    """Factor and unit of the cost's axis."""
    if cost == "latency_ms":
        return 1.0, " [ms]"
    return next(
        (factor, f" [{name}]" if name else "")
        for factor, name in ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands"), (1, ""))
        if values.max() >= factor or not name
    )


def _number(value: float, cost: str) -> str:
    return f"{value:,.3g} ms" if cost == "latency_ms" else f"{value:,.0f}"
