"""τ over the epochs: the distribution over pairs with a slider, its marginals and entropy, and what other policies
learn besides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import plotly.graph_objects as go

from kit.figures import animation, panels, tiles
from kit.figures.augmentation import CAP, ticks
from kit.figures.panels import Column, Panel
from kit.figures.recorded import FRAMES, POINTS, Recorded, entropy, need, op_names, thinned
from kit.figures.style import GREY, INK, LOW_TO_HIGH, PALETTE, TEMPLATE, blank, headline
from kit.run.run import Run

# of a place in τ's arrays: what changes of each trace, by its number, and of the layout
Move = Callable[[int], tuple[dict[int, Any], dict[str, Any]]]
ROW = 13.5  # pixels of an operation's row in a panel over the epochs
ROW_LEVELS = 21  # shades in the panels over the epochs
SIDE = 400  # pixels of the heat map
PROBABILITY = [[0.0, "#F7F7F7"], [0.5, PALETTE["sky"]], [1.0, "#003B5C"]]


def tau_evolution(run: Run) -> go.Figure:
    """τ with a slider over the epochs: the probability of each ordered pair over a uniform policy's with its marginals,
    and beside it, on
    one epoch axis, entropy and marginals; where the policy learns them, also each operation's application probability
    and the distribution
    of its magnitude. At most 60 epochs are frames, both ends among them.

    A fixed policy gets a note. Raises KitError before anything is recorded.
    """
    seen = need(run)
    if not any(name in seen.tau for name in ("probabilities", "apply", "magnitude")):
        return blank(fixed(seen), headline(run))
    right = [panel for panel in (entropy_panel(seen), *marginal_panels(seen), apply_panel(seen)) if panel]
    maps = [which for which in ("probabilities", "magnitude") if which in seen.tau]
    tall = max(panels.stacked(right), _maps_height(maps))
    figure = go.Figure(layout={"template": TEMPLATE, "showlegend": False, "barmode": "overlay"})
    figure.update_layout(
        height=tall + 60 + 60 + animation.CONTROLS + 26,
        margin={"t": 60 + animation.CONTROLS + 26, "b": 60, "l": 105, "r": 85},
        title_text=f"{headline(run)} · τ over the epochs",
        **animation.controls(_frames(seen), tall),
    )
    moving: list[Move] = []
    if "probabilities" in maps:
        moving.append(add_pairs(figure, seen, (0.0, 0.36), (1 - 70 / tall, 1 - (70 + SIDE) / tall), 0.45, "x10", "y10"))
        moving.append(_add_bars(figure, seen, tall))
    if "magnitude" in maps:
        top = 1 - ((SIDE + 70 + 165) / tall if len(maps) > 1 else 0.0)
        moving.append(_add_magnitude(figure, seen, (0.0, 0.36), top, tall))
    cursors = panels.add(figure, right, Column(0.62, 1.0), tall, seen.spans, seen.last)
    animate(figure, seen, cursors, moving)
    return figure


def fixed(seen: Recorded) -> str:
    return f"τ is fixed in this run (augment = {getattr(seen.run.config, 'augment', '?')}): there is no learned policy to draw"


def _maps_height(maps: list[str]) -> float:
    return sum({"probabilities": SIDE + 70 + 105, "magnitude": 300 + 30}[which] for which in maps) + 60 * (
        len(maps) - 1
    )


def _frames(seen: Recorded) -> list[int]:
    return seen.tau["epoch"][thinned(len(seen.tau["epoch"]), FRAMES)].tolist()


def animate(figure: go.Figure, seen: Recorded, cursors: list[int], moving: list[Move]) -> None:
    places = thinned(len(seen.tau["epoch"]), FRAMES)
    epochs = seen.tau["epoch"][places].tolist()
    changes, layouts = [], []
    for place, epoch in zip(places, epochs):
        change: dict[int, Any] = {cursor: {"type": "scatter", "x": [epoch, epoch]} for cursor in cursors}
        layout: dict[str, Any] = {}
        for move in moving:
            traces, moved = move(place)
            change |= traces
            layout |= moved
        changes.append(change)
        layouts.append(layout)
    figure.frames = animation.frames(epochs, changes, layouts)


# ---- maps that move with the slider --------------------------------------------------------------


def add_pairs(
    figure: go.Figure,
    seen: Recorded,
    x: tuple[float, float],
    y: tuple[float, float],
    bar: float,
    xaxis: str,
    yaxis: str,
) -> Move:
    """The heat map of the pairs at the last epoch, between these fractions of the plot area; returns how it changes
    over the epochs.

    bar: where the colour bar begins. Colours are logarithmic, symmetric about the uniform policy's probability, the
    same at all epochs.
    """
    p = seen.tau["probabilities"].astype(float)
    ops, count = op_names(seen.run, p.shape[1]), p[0].size
    limit = min(max(float(np.abs(np.log2(np.maximum(p * count, 1e-6))).max()), 0.05), float(np.log2(CAP)))

    z, ratio = np.log2(np.maximum(p * count, 1e-6)), p * count
    at = ticks(limit)
    scale = tiles.Scale(-limit, limit, LOW_TO_HIGH)
    settings = {
        "title": {"text": "÷ uniform", "side": "top", "font": {"size": 11}},
        "tickvals": at,
        "ticktext": ratios(at),
        "x": bar,
        "y": y[1],
        "len": (y[0] - y[1]) * 0.9,
    }
    names = {"tickvals": list(range(len(ops))), "ticktext": ops, "showgrid": False, "tickfont": {"size": 11}}
    figure.update_layout(
        {
            f"xaxis{xaxis[1:]}": {
                "domain": list(x),
                "anchor": yaxis,
                "tickangle": -45,
                "range": [-0.5, len(ops) - 0.5],
                **names,
                "title": {"font": {"size": 12}, "standoff": 6},
            },
            f"yaxis{yaxis[1:]}": {
                "domain": [y[1], y[0]],
                "anchor": xaxis,
                "range": [len(ops) - 0.5, -0.5],
                **names,
                "title": {"text": "first operation", "font": {"size": 12}, "standoff": 4},
            },
        }
    )
    texts = [f"{first}, then {second}" for first in ops for second in ops]
    return _map(
        figure,
        seen,
        (z, ratio),
        scale,
        settings,
        (xaxis, yaxis),
        texts,
        "%{hovertext}<br>%{customdata:.3~g} × uniform",
        "second operation",
    )


def _map(
    figure: go.Figure,
    seen: Recorded,
    content: tuple[np.ndarray, np.ndarray],
    scale: tiles.Scale,
    bar: dict[str, Any],
    axes: tuple[str, str],
    texts: list[str],
    hover: str,
    title: str,
) -> Move:
    """A map in tiles at the last epoch. content: the values that colours stand for and those that are told, both
    [epochs, rows, columns].
    """
    (z, shown), first, axis = content, len(figure.data), f"xaxis{axes[0][1:]}"
    look, levels = {"xaxis": axes[0], "yaxis": axes[1]}, scale.levels(content[0])
    rows, columns = z.shape[1:]

    def at(place: int) -> tuple[dict[int, Any], dict[str, Any]]:
        traces = {
            first + k: {"type": "scatter", **tiles.outlines(found)}
            for k, found in enumerate(tiles.grid(levels[place], scale.count))
        }
        traces[first + len(traces)] = {"type": "scatter", "customdata": short(shown[place])}
        return traces, {axis: {"title": {"text": f"{title} · after epoch {int(seen.tau['epoch'][place])}"}}}

    figure.add_traces(
        [tiles.filled(found, color, **look) for color, found in zip(scale.colors, tiles.grid(levels[-1], scale.count))]
    )
    traces, layout = at(len(z) - 1)
    figure.add_trace(
        tiles.values(
            np.tile(range(columns), rows),
            np.repeat(range(rows), columns),
            traces[max(traces)]["customdata"],
            hover,
            hovertext=texts,
            **look,
        )
    )
    figure.add_trace(scale.bar(bar, **look))
    figure.update_layout(layout)
    return at


def _add_bars(figure: go.Figure, seen: Recorded, tall: float) -> Move:
    """The marginals beside the map: bars over its columns and along its rows."""
    p = seen.tau["probabilities"].astype(float)
    first, second = (100 * p.sum(axis=2)).round(3), (100 * p.sum(axis=1)).round(3)
    ops, number, top = op_names(seen.run, p.shape[1]), len(figure.data), float(max(first.max(), second.max())) * 1.1
    places, look = (
        list(range(len(ops))),
        {"type": "bar", "marker": {"color": PALETTE["sky"]}, "width": 0.75, "hovertext": ops, "showlegend": False},
    )
    figure.add_trace(
        {
            **look,
            "x": places,
            "y": second[-1].tolist(),
            "name": "second operation",
            "xaxis": "x10",
            "yaxis": "y11",
            "hovertemplate": "%{hovertext} %{y}%",
        }
    )
    figure.add_trace(
        {
            **look,
            "x": first[-1].tolist(),
            "y": places,
            "name": "first operation",
            "orientation": "h",
            "xaxis": "x11",
            "yaxis": "y10",
            "hovertemplate": "%{hovertext} %{x}%",
        }
    )
    small = {
        "title": {"text": "share [%]", "font": {"size": 11}, "standoff": 4},
        "range": [0, top],
        "tickfont": {"size": 10},
        "nticks": 4,
    }
    figure.update_layout(
        yaxis11={"domain": [1 - 64 / tall, 1], "anchor": "x10", **small},
        xaxis11={"domain": [0.368, 0.435], "anchor": "y10", **small},
    )
    uniform, rule = 100 / len(ops), {"type": "line", "line": {"color": GREY, "width": 1, "dash": "dash"}}
    figure.add_shape(**rule, xref="x10 domain", yref="y11", x0=0, x1=1, y0=uniform, y1=uniform)
    figure.add_shape(**rule, xref="x11", yref="y10 domain", x0=uniform, x1=uniform, y0=0, y1=1)
    figure.add_annotation(
        text=f"dashed: uniform<br>policy, {uniform:.1f}%",
        xref="paper",
        yref="paper",
        x=0.372,
        y=1,
        xanchor="left",
        yanchor="top",
        align="left",
        showarrow=False,
        font={"size": 11, "color": GREY},
    )
    return lambda place: (
        {number: {"type": "bar", "y": second[place].tolist()}, number + 1: {"type": "bar", "x": first[place].tolist()}},
        {},
    )


def _add_magnitude(figure: go.Figure, seen: Recorded, x: tuple[float, float], top: float, tall: float) -> Move:
    """Rows: operations; columns: bins, evenly spread over the magnitudes from 0 to 10; colour: probability of the
    bin.
    """
    m = seen.tau["magnitude"].astype(float)
    ops, bins = op_names(seen.run, m.shape[1]), m.shape[2]
    bottom = top - 300 / tall
    values = [f"{10 * k / max(bins - 1, 1):.2g}" for k in range(bins)]
    figure.update_layout(
        xaxis12={
            "domain": list(x),
            "anchor": "y12",
            "title": {"font": {"size": 12}},
            "showgrid": False,
            "range": [-0.5, bins - 0.5],
            "tickvals": list(range(bins)),
            "ticktext": values,
        },
        yaxis12={
            "domain": [bottom, top],
            "anchor": "x12",
            "range": [len(ops) - 0.5, -0.5],
            "showgrid": False,
            "tickfont": {"size": 11},
            "tickvals": list(range(len(ops))),
            "ticktext": ops,
            "title": {"text": "operation", "font": {"size": 12}, "standoff": 4},
        },
    )
    figure.add_annotation(
        text="<b>τ: distribution of the magnitude</b>",
        x=x[0],
        y=top,
        xref="paper",
        yref="paper",
        xanchor="left",
        yanchor="bottom",
        yshift=6,
        showarrow=False,
        font={"size": 13, "color": INK},
    )
    bar = {
        "title": {"text": "probability", "side": "top", "font": {"size": 11}},
        "x": x[1] + 0.008,
        "y": bottom,
        "len": (top - bottom) * 0.9,
        "nticks": 5,
    }
    texts, scale = (
        [f"{op}, magnitude {value}" for op in ops for value in values],
        tiles.Scale(0, float(m.max()), PROBABILITY),
    )
    return _map(
        figure, seen, (m, m), scale, bar, ("x12", "y12"), texts, "%{hovertext}: %{customdata:.3~g}", "magnitude [of 10]"
    )


# ---- panels over the epochs ----------------------------------------------------------------------


def entropy_panel(seen: Recorded, height: float = 95) -> Panel | None:
    if "probabilities" not in seen.tau:
        return None
    p = seen.tau["probabilities"].astype(float)
    values, uniform = entropy(p.reshape(len(p), -1)), float(np.log(p[0].size))
    at = thinned(len(p), POINTS)
    traces = [
        panels.line(seen.tau["epoch"][at].tolist(), values[at].tolist(), "entropy", PALETTE["green"]),
        panels.level(uniform, seen.last),
    ]
    axis = {"title": {"text": "nats"}, "range": panels.span([values, np.array([uniform])], pad=0.12)}
    return Panel("τ: entropy of the pairs", height, traces, axis, [(f"- - uniform, {uniform:.2f}", GREY)])


def marginal_panels(seen: Recorded, room: float = 0.0) -> list[Panel]:
    """First and second operation: share over a uniform policy's, a row for each operation. room: pixels that the two
    panels may fill.
    """
    if "probabilities" not in seen.tau:
        return []
    p = seen.tau["probabilities"].astype(float)
    count = p.shape[1]
    both = [np.log2(np.maximum(p.sum(axis=axis) * count, 1e-6)) for axis in (2, 1)]
    limit = min(max(max(float(np.abs(z).max()) for z in both), 0.05), float(np.log2(CAP)))
    at = ticks(limit)
    bar = {"tickvals": at, "ticktext": ratios(at), "title": {"text": "÷ uniform", "side": "top", "font": {"size": 11}}}
    scale, names = tiles.Scale(-limit, limit, LOW_TO_HIGH, ROW_LEVELS), op_names(seen.run, count)
    return [
        _rows(
            seen,
            f"τ: {which} operation",
            z,
            2**z,
            names,
            scale,
            bar if which == "first" else None,
            " × uniform",
            room / 2,
        )
        for which, z in zip(("first", "second"), both)
    ]


def apply_panel(seen: Recorded) -> Panel | None:
    if "apply" not in seen.tau:
        return None
    values = seen.tau["apply"].astype(float)
    bar = {"title": {"text": "probability", "side": "top", "font": {"size": 11}}, "nticks": 5}
    return _rows(
        seen,
        "τ: probability of being applied",
        values,
        values,
        op_names(seen.run, values.shape[1]),
        tiles.Scale(0, 1, PROBABILITY, ROW_LEVELS),
        bar,
        "",
    )


def _rows(
    seen: Recorded,
    heading: str,
    z: np.ndarray,
    shown: np.ndarray,
    ops: list[str],
    scale: tiles.Scale,
    bar: dict[str, Any] | None,
    unit: str,
    room: float = 0.0,
) -> Panel:
    """A row for each operation. z, shown: float [epochs, operations], what colours stand for and what is told."""
    at = thinned(len(z), POINTS)
    epochs, rows = seen.tau["epoch"][at].tolist(), range(len(ops))
    stretches = tiles.ribbons(scale.levels(z[at]).T, tiles.borders(epochs), scale.count)
    traces = [tiles.filled(found, color) for color, found in zip(scale.colors, stretches) if found]
    traces.append(
        tiles.values(
            np.tile(epochs, len(ops)),
            np.repeat(rows, len(epochs)),
            short(shown[at].T),
            hovertext=np.repeat(ops, len(epochs)),
            hover=f"%{{hovertext}}, epoch %{{x}}: %{{customdata:.3~g}}{unit}",
        )
    )
    traces += [scale.bar(bar)] if bar else []
    axis = {
        "tickvals": list(rows),
        "ticktext": ops,
        "range": [len(ops) - 0.5, -0.5],
        "showgrid": False,
        "tickfont": {"size": 10},
        "ticklen": 2,
    }
    return Panel(heading, max(ROW * len(ops), room), traces, axis)


def ratios(logarithms: list[float]) -> list[str]:
    return [f"{2**t:.2g}×" if t < 0 else f"{2**t:.3g}×" for t in logarithms]


def short(values: np.ndarray) -> np.ndarray:
    """Flat, with three digits: what a mouse over a tile is told."""
    flat = np.asarray(values, dtype=float).ravel()
    digits = 10 ** (2 - np.floor(np.log10(np.maximum(np.abs(flat), 1e-12))))
    return (np.round(flat * digits) / digits).astype(np.float32)
