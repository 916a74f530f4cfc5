"""Several runs over their epochs: what they have in common overlaid, and in words what cannot be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from kit.errors import KitError
from kit.figures import panels
from kit.figures.evolution_panels import HYPER, searched
from kit.figures.panels import Column, Panel, line, log_span, span
from kit.figures.recorded import POINTS, Recorded, entropy, need, shares, thinned
from kit.figures.style import GREY, PALETTE, TEMPLATE, dataset_of, legend_below_title, log_ticks
from kit.run.run import Run

COLORS = [PALETTE[name] for name in ("blue", "vermillion", "green", "purple", "orange", "sky", "black")]
Curve = tuple[Sequence[int], np.ndarray]


def overlaid(runs: Sequence[Run]) -> go.Figure:
    """See `kit.figures.evolution`. A ring marks where a run's search ended."""
    if not runs:
        raise KitError("no runs to draw: give kit.Run.load(path), or a list of such runs")
    seen = [need(run) for run in runs]
    colors = [COLORS[k % len(COLORS)] for k in range(len(seen))]
    drawn = [panel for panel in _panels(seen, colors) if panel.traces]
    tall, last = panels.stacked(drawn), max(one.last for one in seen)
    figure = go.Figure(layout={"template": TEMPLATE})
    for run, color in zip(runs, colors):
        look = {"mode": "lines", "line": {"color": color, "width": 3}}
        figure.add_trace({"type": "scatter", "x": [None], "y": [None], "name": run.path.name, **look})
    panels.add(figure, drawn, Column(0, 1), tall, [], last, cursor=False)
    notes = [f"not comparable: {text}" for text in differences(seen)]
    for k, text in enumerate(notes):
        figure.add_annotation(
            text=text,
            xref="paper",
            yref="paper",
            x=0,
            y=0,
            xanchor="left",
            yanchor="top",
            yshift=-52 - 20 * k,
            showarrow=False,
            font={"size": 12, "color": GREY},
        )
    legend = 24 * -(-len(runs) // 3)
    height = tall + 74 + legend + 66 + 20 * len(notes)
    margin = {"t": 74 + legend, "b": 66 + 20 * len(notes), "l": 90, "r": 50}
    figure.update_layout(
        height=height,
        margin=margin,
        title_text=f"{len(runs)} runs side by side",
        legend=legend_below_title(height),
        showlegend=True,
    )
    return figure


def comparable(runs: Sequence[Run]) -> str:
    """What of these runs stands side by side and what does not, in a few lines of text."""
    seen = [need(run) for run in runs]
    found = differences(seen)
    return "\n".join(
        [
            f"{len(seen)} runs. "
            + ("Everything that they recorded is comparable." if not found else "Not comparable:"),
            *(f"- {text}" for text in found),
        ]
    )


def differences(seen: Sequence[Recorded]) -> list[str]:
    """What must not be read as a difference between the methods, and what of it may, each in a line."""
    found = []
    data = {
        (
            dataset_of(one.run),
            getattr(one.run.config, "image_size", None),
            getattr(one.run.config, "train_images", None),
        )
        for one in seen
    }
    policies = sorted({str(getattr(one.run.config, "augment", "?")) for one in seen})
    spaces = sorted({space_of(one) for one in seen})
    if len(data) > 1:
        found.append(
            f"losses: the runs learn from different data ({', '.join(sorted({_data(*entry) for entry in data}))})"
        )
    elif len(policies) > 1:
        found.append(
            f"training losses: the images are augmented differently ({', '.join(policies)}); validation losses can be compared"
        )
    if len(spaces) > 1:
        found.append(
            f"α's entropy, skips and picks: the spaces offer different candidates ({', '.join(spaces)}); the share of frozen slots can "
            "be compared"
        )
    sizes = sorted({one.tau["probabilities"].shape[1] for one in seen if "probabilities" in one.tau})
    if len(sizes) > 1:
        found.append(
            f"τ's single operations: the runs have {' and '.join(map(str, sizes))} of them; the distance from a uniform policy can "
            "be compared"
        )
    return found


def space_of(one: Recorded) -> str:
    """The space's name; an older layout's is told by its slots."""
    return str(getattr(one.run.config, "space", "cell" if one.alpha and one.cells else "unknown"))


def _data(name: str, size: int | None, images: int | None) -> str:
    return name + (f" at {size}×{size}" if size else "") + (f", {images:,} images" if images else "")


# ---- panels --------------------------------------------------------------------------------------


def _panels(seen: Sequence[Recorded], colors: Sequence[str]) -> list[Panel]:
    same = len({space_of(one) for one in seen}) == 1
    solid, dashed = ("━ training", GREY), ("- - validation", GREY)
    losses = [(lambda one: _series(one, "loss"), "solid"), (lambda one: _series(one, "val_loss"), "dash")]
    found = [_overlay("loss", "nats", seen, colors, losses, [solid, dashed], zero=True, rings=True, height=150)]
    moving = (name for one in seen for name in one.frame if name.startswith("eta/") and one.series(name).nunique() > 1)
    names = dict.fromkeys(name.removeprefix("eta/") for name in moving)
    for name in names:
        title = HYPER.get(name, name.replace("_", " ").replace("/", ": "))
        curves = [
            (lambda one, name=name: _series(one, f"eta/{name}"), "solid"),
            (lambda one, name=name: _series(one, name), "dot"),
        ]
        found.append(
            _overlay(
                f"η: {title}", title, seen, colors, curves, [("━ learned", GREY), ("··· effective", GREY)], log=True
            )
        )
    found.append(
        _overlay("τ: distance of the pairs from a uniform policy", "nats", seen, colors, [(_distance, "solid")])
    )
    if same:
        found.append(_overlay("α: mean entropy of a slot", "nats", seen, colors, [(_alpha_entropy, "solid")]))
    found.append(_overlay("α: frozen slots", "%", seen, colors, [(_frozen, "solid")], zero=True))
    if same:
        cells = [(lambda one: _skips(one, "normal"), "solid"), (lambda one: _skips(one, "reduce"), "dash")]
        found.append(
            _overlay(
                "α: share of skips",
                "%",
                seen,
                colors,
                cells,
                [("━ normal cell", GREY), ("- - reduction cell", GREY)],
                zero=True,
            )
        )
    return found


def _overlay(
    heading: str,
    unit: str,
    seen: Sequence[Recorded],
    colors: Sequence[str],
    curves: Sequence[tuple[Callable[[Recorded], Curve], str]],
    keys: Sequence[tuple[str, str]] = (),
    log: bool = False,
    zero: bool = False,
    rings: bool = False,
    height: float = 105,
) -> Panel:
    """The same curves of every run, in its colour; a run without one is left out. curves: what gives each, and its
    dash.
    """
    traces: list[dict[str, Any]] = []
    values: list[np.ndarray] = []
    for get, dash in curves:
        for one, color in zip(seen, colors):
            x, y = get(one)
            if log:
                x, y = [e for e, v in zip(x, y) if v > 0], y[y > 0]
            if len(x):
                values.append(y)
                traces.append(line(x, y, one.run.path.name, color, dash=dash, width=2 if dash == "solid" else 1.5))
                traces += _ring(one, x, y, color) if rings and dash == "solid" else []
    axis: dict[str, Any] = {"title": {"text": unit}, "exponentformat": "power", "nticks": 5}
    if log:
        low, high = log_span(values)
        axis |= {"type": "log", "range": [low, high], **log_ticks(low, high)}
    else:
        axis["range"] = span(values, zero=zero)
    return Panel(
        heading + (", log scale" if log else ""),
        height,
        traces,
        axis,
        [*keys, *([("○ end of the search", GREY)] if rings else [])],
    )


def _ring(one: Recorded, x: Sequence[int], y: np.ndarray, color: str) -> list[dict[str, Any]]:
    ends = [last for _, _, last in one.spans[:-1]]
    at = [int(np.argmin(np.abs(np.asarray(x) - end))) for end in ends]
    return (
        [
            {
                "type": "scatter",
                "x": ends,
                "y": [float(y[k]) for k in at],
                "mode": "markers",
                "showlegend": False,
                "hoverinfo": "skip",
                "marker": {"symbol": "circle-open", "size": 10, "color": color, "line": {"width": 2}},
            }
        ]
        if ends
        else []
    )


def _series(one: Recorded, name: str) -> Curve:
    values: pd.Series = one.series(name)
    at = thinned(len(values), POINTS)
    return values.index[at].tolist(), values.to_numpy(dtype=float)[at]


def _distance(one: Recorded) -> Curve:
    if "probabilities" not in one.tau:
        return [], np.zeros(0)
    p = one.tau["probabilities"].astype(float)
    return _at(one.tau["epoch"], np.log(p[0].size) - entropy(p.reshape(len(p), -1)))


def _alpha_entropy(one: Recorded) -> Curve:
    return (
        _at(one.alpha["epoch"], entropy(shares(one.alpha["alpha"])).mean(axis=1))
        if one.alpha and searched(one)
        else ([], np.zeros(0))
    )


def _frozen(one: Recorded) -> Curve:
    known = one.alpha and searched(one) and one.alpha["frozen"].any()
    return _at(one.alpha["epoch"], 100 * one.alpha["frozen"].mean(axis=1)) if known else ([], np.zeros(0))


def _skips(one: Recorded, kind: str) -> Curve:
    return (
        _at(one.alpha["epoch"], 100 * one.skips[kind])
        if one.alpha and kind in one.skips and searched(one)
        else ([], np.zeros(0))
    )


def _at(epochs: np.ndarray, values: np.ndarray) -> Curve:
    at = thinned(len(values), POINTS)
    return epochs[at].tolist(), values[at]
