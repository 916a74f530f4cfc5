"""What moved over the epochs: θ, η, τ and α of one run, or one quantity of many runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kit.errors import KitError
from kit.figures.style import (
    GREY,
    PALETTE,
    TEMPLATE,
    by_epoch,
    headline,
    legend_below_title,
    log_ticks,
    mark_stages,
    method_look,
    method_of,
    stage_spans,
)
from kit.run.run import Run
from kit.space.cell import cell_slots

COLUMNS = 3
DECADES = 3  # of the learning rate in use; a cosine schedule ends at 0, which no logarithmic axis reaches


@dataclass(frozen=True)
class Quantity:
    """How a name of the history is drawn. scale: factor from the stored unit to the drawn one."""

    title: str
    axis: str
    log: bool = False
    scale: float = 1.0
    ticks: str | None = None  # d3 format


QUANTITIES = {
    "loss": Quantity("training loss", "cross-entropy [nats]"),
    "val_loss": Quantity("validation loss", "cross-entropy [nats]"),
    "train_accuracy": Quantity("training accuracy", "accuracy [%]", scale=100),
    "val_accuracy": Quantity("validation accuracy", "accuracy [%]", scale=100),
    "lr": Quantity("learning rate in use", "η × schedule", log=True),
    "weight_decay": Quantity("weight decay in use", "weight decay", log=True, ticks=".2~e"),
    "eta/lr": Quantity("η: learned learning rate", "learning rate", log=True),
    "eta/weight_decay": Quantity("η: learned weight decay", "weight decay", log=True, ticks=".2~e"),
    "tau/kl_from_uniform": Quantity("τ: distance from uniform", "KL divergence [nats]"),
    "tau/entropy": Quantity("τ: entropy", "entropy [nats]"),
    "tau/largest": Quantity("τ: most probable pair", "probability [%]", scale=100),
    "alpha/change": Quantity("α: largest change of a node", "‖Δα‖₂ per epoch", log=True),
    "alpha/entropy": Quantity("α: entropy of |α| over candidates", "entropy [nats]"),
    "alpha/frozen": Quantity("α: frozen nodes", "share of all nodes [%]", scale=100 / len(cell_slots())),
    "alpha/skips": Quantity("α: skips", "share of chosen operations [%]", scale=100),
    "alpha/refused": Quantity("α: children over the limits", "children refused"),
}
# a panel of `curves`: the names that share it, each with its legend entry ("" for none) and colour
PANELS = (
    (("loss", "train", "blue"), ("val_loss", "validation", "orange")),
    (("train_accuracy", "train", "blue"), ("val_accuracy", "validation", "orange")),
    (("lr", "", "black"),),
    (("eta/lr", "", "vermillion"),),
    (("eta/weight_decay", "", "vermillion"),),
    (("tau/kl_from_uniform", "", "green"),),
    (("tau/entropy", "", "green"),),
    (("alpha/change", "", "purple"),),
    (("alpha/frozen", "frozen nodes", "purple"), ("alpha/skips", "skips", "black")),
)
# title and axis of the panels that several names share
SHARED = {
    "loss": ("loss", "cross-entropy [nats]"),
    "train_accuracy": ("accuracy", "accuracy [%]"),
    "alpha/frozen": ("α: frozen nodes, skips chosen", "share [%]"),
}

RING = "end of the search stage"


def quantity(name: str) -> Quantity:
    return QUANTITIES.get(name.removeprefix("step/"), Quantity(name, name))


def curves(run: Run) -> go.Figure:
    """Loss and accuracy, η, τ and α by completed epoch; what the run's method leaves fixed has no panel.

    Raises KitError before the first epoch is completed.
    """
    frame = by_epoch(run)
    panels = [panel for panel in PANELS if panel[0][0] in frame and _moves(panel[0][0], run)]
    rows = -(-len(panels) // COLUMNS)
    titles = [f"<b>{_heading(panel)[0]}</b>" for panel in panels]
    figure = make_subplots(
        rows,
        min(COLUMNS, len(panels)),
        subplot_titles=titles,
        horizontal_spacing=0.105,
        vertical_spacing=0.36 / max(1, rows),
    )
    figure.update_annotations(font={"size": 14}, yshift=14)
    for k, panel in enumerate(panels):
        _panel(figure, run, frame, panel, k)
        below = k + COLUMNS < len(panels)
        figure.update_xaxes(title_text=None if below else "epoch", row=k // COLUMNS + 1, col=k % COLUMNS + 1)
    figure.update_xaxes(matches="x", range=[0, float(frame.index.max())])
    figure.update_layout(xaxis_matches=None)
    height = 145 + 235 * rows
    figure.update_layout(
        template=TEMPLATE, title_text=headline(run), height=height, margin={"t": 125}, legend=legend_below_title(height)
    )
    return figure


def _moves(name: str, run: Run) -> bool:
    """Whether the run's configuration lets the quantity move: a fixed η or α would fill a panel with a straight
    line.
    """
    if name.startswith("eta/"):
        return getattr(run.config, "hyper", "") != "fixed" and not (
            name == "eta/weight_decay" and getattr(run.config, "weight_decay", None) == 0
        )
    method = method_of(run)
    return not name.startswith("alpha/") or method is None or any(stage.search for stage in method.stages)


def _heading(panel: tuple) -> tuple[str, str]:
    look = quantity(panel[0][0])
    return SHARED.get(panel[0][0], (look.title, look.axis))


def _panel(figure: go.Figure, run: Run, frame: pd.DataFrame, panel: tuple, k: int) -> None:
    row, column = k // COLUMNS + 1, k % COLUMNS + 1
    look = quantity(panel[0][0])
    for name, label, color in panel:
        if name in frame:
            shown = bool(label) and panel[0][0] != "train_accuracy"  # whose colours are those of the loss
            figure.add_trace(
                _line(frame[name], quantity(name), label or quantity(name).title, PALETTE[color], shown), row, column
            )
    if panel[0][0] == "train_accuracy" and run.finished:
        point = go.Scatter(
            x=[run.metrics["epochs"]],
            y=[run.metrics["test_accuracy"] * 100],
            mode="markers",
            name="test (once, at the end)",
            cliponaxis=False,
            marker={"symbol": "star", "size": 13, "color": PALETTE["vermillion"]},
        )
        figure.add_trace(point, row, column)
    figure.update_yaxes(
        title_text=_heading(panel)[1],
        type="log" if look.log else "linear",
        exponentformat="power",
        tickformat=look.ticks,
        row=row,
        col=column,
    )
    if panel[0][0] == "lr":
        top, least = np.log10(frame["lr"].max()), np.log10(frame["lr"].clip(lower=1e-300).min())
        low, high = max(least - 0.1, top - DECADES), top + 0.15
        figure.update_yaxes(range=[low, high], **log_ticks(low, high), row=row, col=column)
    axis = "" if k == 0 else str(k + 1)
    mark_stages(figure, stage_spans(run, frame), f"x{axis}", f"y{axis}")


def _line(values: pd.Series, look: Quantity, name: str, color: str, shown: bool = True) -> go.Scatter:
    values = values.dropna()
    if look.log:  # a frozen α changes by 0, which no logarithmic axis shows
        values = values[values > 0]
    return go.Scatter(
        x=values.index.tolist(),
        y=(values * look.scale).tolist(),
        mode="lines+markers",
        name=name,
        legendgroup=name,
        showlegend=shown,
        cliponaxis=look.log,
        line={"color": color, "width": 2},
        marker={"size": 5},
    )


# ---- many runs -----------------------------------------------------------------------------------


def overlay(runs: Sequence[Run], name: str) -> go.Figure:
    """One quantity of many runs: a thin line per seed, the mean of a method's seeds bold, a ring where a search stage
    ends.

    name: a name of the history, such as "loss", "eta/lr" or "step/lr". The mean covers the epochs that all seeds
    reached.
    Raises KitError when no run has that name; runs without it (whose method leaves it fixed) are left out.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if name in set(run.history["name"]):
            groups.setdefault(run.config.method, []).append(run)
    if not groups:
        known = sorted({n for run in runs for n in run.history["name"].unique()})
        raise KitError(
            f"none of the {len(runs)} runs has a curve {name!r}; they have: {', '.join(known) or 'nothing yet'}"
        )
    look = quantity(name)
    figure = go.Figure()
    for method, members in groups.items():
        _method_lines(figure, method, members, name, look)
    if any(trace.name == RING for trace in figure.data):
        ring = {"symbol": "circle-open", "size": 9, "color": GREY}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=RING, marker=ring))
    datasets = sorted({run.config.dataset for members in groups.values() for run in members})
    figure.update_layout(
        template=TEMPLATE,
        height=480,
        title_text=f"{', '.join(datasets)} · {look.title}",
        legend={"x": 1.01, "xanchor": "left", "y": 1, "yanchor": "top"},
    )
    figure.update_xaxes(title_text="step" if name.startswith("step/") else "epoch")
    figure.update_yaxes(title_text=look.axis, type="log" if look.log else "linear", tickformat=look.ticks)
    return figure


def _method_lines(figure: go.Figure, method: str, members: list[Run], name: str, look: Quantity) -> None:
    color, dash = method_look(method)
    series = [run.curve(name) * look.scale for run in members]
    series = [s[s > 0] if look.log else s for s in series]
    for run, values in zip(members, series):
        if len(members) > 1:  # one seed alone is its mean
            figure.add_trace(
                go.Scatter(
                    x=values.index.tolist(),
                    y=values.tolist(),
                    mode="lines",
                    name=f"{method} seed {run.config.seed}",
                    legendgroup=method,
                    showlegend=False,
                    opacity=0.4,
                    line={"color": color, "width": 1, "dash": dash},
                )
            )
        ends = (
            []
            if name.startswith("step/")
            else [last for _, _, last in stage_spans(run, by_epoch(run))[:-1] if last in values.index]
        )
        if ends:
            figure.add_trace(
                go.Scatter(
                    x=ends,
                    y=[float(values[e]) for e in ends],
                    mode="markers",
                    name=RING,
                    legendgroup=method,
                    showlegend=False,
                    marker={"symbol": "circle-open", "size": 9, "color": color},
                )
            )
    mean = pd.concat(series, axis=1, join="inner").mean(axis=1)
    label = f"{members[0].config.composition.title} (n = {len(members)})"
    figure.add_trace(
        go.Scatter(
            x=mean.index.tolist(),
            y=mean.tolist(),
            mode="lines",
            name=label,
            legendgroup=method,
            line={"color": color, "width": 3, "dash": dash},
        )
    )
