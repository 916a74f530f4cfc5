"""Runs side by side: test accuracy against what it cost, with Pareto fronts, and how much the found architectures
agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kit.errors import KitError
from kit.figures.comparison import UNITS
from kit.figures.style import GREY, INK, PALETTE, TEMPLATE, blank, legend_below_title, method_look


@dataclass(frozen=True)
class Cost:
    """within: the columns that runs must share to stand on one front."""

    title: str
    short: str
    within: tuple[str, ...] = ("data", "budget")


COSTS = {
    "seconds": Cost("wall-clock of the run", "seconds", ("data", "budget", "machine")),
    "params": Cost("parameters", "params"),
    "macs": Cost("multiply-adds", "macs"),
}
NEEDED = (
    "run",
    "data",
    "method",
    "title",
    "seed",
    "budget",
    "machine",
    "test_accuracy",
    *COSTS,
    *(f"front_{cost}" for cost in COSTS),
)
RANGE = 20  # largest by smallest, from which an axis is logarithmic
COUNTS = ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands"), (1.0, ""))
FRONT = "Pareto front"
NOTE = (
    "Up and left is better; no run reaches as much as one on a front for less. Test accuracy is reported, nothing is selected by it.<br>"
    "A front joins runs of one budget, and for wall-clock of one machine."
)


def tradeoffs(table: pd.DataFrame, title: str = "Test accuracy against cost") -> go.Figure:
    """Test accuracy of every finished run over seconds, parameters and multiply-adds, a row of panels per data set and
    image size.

    table: `report.compare(runs).table`. Rings and the dotted line mark the Pareto fronts that the table names. Raises
    KitError naming
    columns that are missing.
    """
    missing = [name for name in NEEDED if name not in table]
    if missing:
        raise KitError(f"the table has no column {', '.join(missing)}: give report.compare(runs).table")
    shown = table[table["test_accuracy"].notna()]
    if shown.empty:
        return blank(f"none of the {len(table)} runs is finished: there is no test accuracy yet", title)
    groups = {str(name): group for name, group in shown.groupby("data", sort=False)}
    figure = make_subplots(
        len(groups),
        len(COSTS),
        subplot_titles=_row_titles(groups),
        shared_yaxes=True,
        horizontal_spacing=0.035,
        vertical_spacing=0.24 / len(groups),
    )
    figure.update_annotations(font={"size": 14}, x=0, xanchor="left", yshift=6)
    legend: set[str] = set()
    for row, group in enumerate(groups.values(), start=1):
        for column, cost in enumerate(COSTS, start=1):
            _panel(figure, group, cost, row, column)
            for trace in _dots(group, shown, cost):
                figure.add_trace(trace.update(showlegend=trace.name not in legend), row, column)
                legend.add(trace.name)
        figure.update_yaxes(title_text="test accuracy [%]", row=row, col=1)
    figure.add_trace(
        go.Scatter(
            x=[None],
            y=[None],
            mode="lines+markers",
            name=FRONT,
            line={"color": GREY, "width": 1.5, "dash": "dot"},
            marker={"symbol": "circle-open", "size": 14, "color": INK},
        )
    )
    lines = 1 + sum(90 + 7 * len(name) for name in [*legend, FRONT]) // 1080
    height = 165 + 22 * lines + 340 * len(groups)
    legend_place = {**legend_below_title(height), "xref": "container", "x": 0.01}  # the figure's whole width
    figure.update_layout(
        template=TEMPLATE, height=height, title_text=title, legend=legend_place, margin={"t": 90 + 22 * lines, "b": 95}
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


def _row_titles(groups: dict[str, pd.DataFrame]) -> list[str]:
    said = [f"<b>{name}</b> · n = {len(group)} run{'s' * (len(group) != 1)}" for name, group in groups.items()]
    return [text for title in said for text in (title, *[""] * (len(COSTS) - 1))]


def _scale(cost: str, values: pd.Series) -> tuple[float, str]:
    """Factor and unit that a cost is drawn in."""
    if cost == "seconds":
        factor, unit = next((factor, unit) for least, factor, unit in UNITS if values.max() >= least or not least)
        return factor, f" [{unit}]"
    return next((factor, f" [{unit}]" if unit else "") for factor, unit in COUNTS if values.max() >= factor or not unit)


def _panel(figure: go.Figure, group: pd.DataFrame, cost: str, row: int, column: int) -> None:
    """Axes and fronts."""
    known = group[group[cost].notna()]
    factor, unit = _scale(cost, known[cost])
    wide = len(known) > 0 and known[cost].min() > 0 and known[cost].max() / known[cost].min() >= RANGE
    ticks = _log_ticks(known[cost].min() / factor, known[cost].max() / factor) if wide else None
    figure.update_xaxes(
        title_text=COSTS[cost].title + unit, type="log" if wide else "linear", tickvals=ticks, row=row, col=column
    )
    for _, members in known[known[f"front_{cost}"]].groupby(list(COSTS[cost].within), dropna=False):
        members = members.sort_values([cost, "test_accuracy"])
        words = [""] * (len(members) - 1) + [
            members["budget"].iloc[0] if group["budget"].nunique() > 1 else ""
        ]  # whose front it is
        figure.add_trace(
            go.Scatter(
                x=(members[cost] / factor).tolist(),
                y=(members["test_accuracy"] * 100).tolist(),
                mode="lines+markers+text",
                name=FRONT,
                showlegend=False,
                hoverinfo="skip",
                text=words,
                textposition="bottom center",
                textfont={"size": 11, "color": GREY},
                line={"color": GREY, "width": 1.5, "dash": "dot", "shape": "hv"},
                marker={"symbol": "circle-open", "size": 17, "color": INK, "line": {"width": 1.5}},
            ),
            row,
            column,
        )


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers from below `low` to above `high`: 1, 2, 5, 10, …, or powers of ten where they are many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [float(f"{step}e{k}") for k in decades for step in ((1, 2, 5) if len(decades) <= 4 else (1,))]


def _dots(group: pd.DataFrame, everything: pd.DataFrame, cost: str) -> list[go.Scatter]:
    factor, _ = _scale(cost, group[cost])
    traces = []
    for method, rows in group.groupby("method", sort=False):
        color, dash = method_look(str(method))
        symbol = {"solid": "circle", "dash": "circle-open"}.get(dash, "diamond")
        hover = [_hover(row) for row in rows.to_dict("records")]
        traces.append(
            go.Scatter(
                x=(rows[cost] / factor).tolist(),
                y=(rows["test_accuracy"] * 100).tolist(),
                mode="markers",
                text=hover,
                name=_entry(everything[everything["method"] == method]),
                legendgroup=str(method),
                hovertemplate="%{text}<extra></extra>",
                marker={
                    "symbol": symbol,
                    "size": 10,
                    "color": color,
                    "line": {"width": 2 if symbol != "circle" else 0},
                },
            )
        )
    return traces


def _hover(row: dict) -> str:
    units = {"seconds": "s", "params": "parameters", "macs": "multiply-adds"}
    facts = [
        f"{row['test_accuracy']:.2%}",
        *(f"{row[name]:,.0f} {unit}" for name, unit in units.items() if pd.notna(row[name])),
    ]
    return f"<b>{row['run']}</b><br>{row['title']}, seed {row['seed']:.0f}<br>{' · '.join(facts)}<br>{row['budget']}; {row['machine']}"


def _entry(rows: pd.DataFrame) -> str:
    """Method, n and seeds; per data set where there are several."""
    said = [
        f"n = {len(group)}, seed{'s' * (len(group) > 1)} {_seeds(group['seed'])}"
        for _, group in rows.groupby("data", sort=False)
    ]
    return (
        f"{rows['title'].iloc[0]} ({said[0]})" if len(set(said)) == 1 else f"{rows['title'].iloc[0]} (n = {len(rows)})"
    )


def _seeds(values: pd.Series) -> str:
    seeds = sorted(int(v) for v in values.dropna())
    run = len(seeds) > 3 and seeds == list(range(seeds[0], seeds[0] + len(seeds)))
    return f"{seeds[0]}–{seeds[-1]}" if run else ", ".join(map(str, seeds[:6])) + (", …" if len(seeds) > 6 else "")


# ---- architectures -------------------------------------------------------------------------------


def agreement(
    pairs: pd.DataFrame, table: pd.DataFrame, title: str = "How many choices two architectures share"
) -> go.Figure:
    """Choices that two runs' architectures have in common, of all; blank between search spaces.

    pairs, table: `report.compare(runs).agreement` and `.table`.
    """
    rows = table[table["run"].isin([*pairs["run"], *pairs["other"]])]
    if len(rows) < 2:
        return blank("no two runs have architectures of one search space", title)
    place = {name: i for i, name in enumerate(rows["run"])}
    shared = np.full((len(rows), len(rows)), np.nan)
    hover = np.full(shared.shape, "", dtype=object)
    for pair in pairs.itertuples():
        inputs = f"<br>{pair.shared_inputs:.0f} of {pair.of} inputs" if pd.notna(pair.shared_inputs) else ""
        for i, j in ((place[pair.run], place[pair.other]), (place[pair.other], place[pair.run])):
            shared[i, j] = pair.shared / pair.of * 100
            hover[i, j] = f"{pair.run}<br>{pair.other}<br>{pair.shared} of {pair.of} choices{inputs}"
    names = _names(rows)
    texts = [["" if np.isnan(v) or len(rows) > 24 else f"{v:.0f}" for v in line] for line in shared]
    figure = go.Figure(
        go.Heatmap(
            z=[[None if np.isnan(v) else float(v) for v in line] for line in shared],
            x=names,
            y=names,
            zmin=0,
            zmax=100,
            xgap=1,
            ygap=1,
            text=texts,
            texttemplate="%{text}",
            customdata=hover.tolist(),
            hovertemplate="%{customdata}<extra></extra>",
            colorscale=[[0, "#F7F7F7"], [1, PALETTE["sky"]]],
            colorbar={"title": {"text": "shared [%]", "side": "right"}, "thickness": 16, "outlinewidth": 0},
        )
    )
    side = 130 + max(34 if len(rows) <= 12 else 22, 0) * len(rows)
    figure.update_layout(template=TEMPLATE, height=max(320, side + 110), title_text=title)
    figure.update_xaxes(tickangle=-35, showgrid=False, title_text="run: method, seed")
    return figure.update_yaxes(autorange="reversed", showgrid=False, title_text="run: method, seed")


def _names(rows: pd.DataFrame) -> list[str]:
    """Method and seed, with the data and the end of the run's name where these do not tell runs apart."""
    short = [f"{r.method} {r.seed:.0f}" for r in rows.itertuples()]
    return [
        name if short.count(name) == 1 else f"{name} ({r.data}, {r.run[-8:]})"
        for name, r in zip(short, rows.itertuples())
    ]
