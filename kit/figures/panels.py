"""Panels under one another on one epoch axis, each of a height in pixels, with a heading, coloured keys and the cursor
of the slider.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import plotly.graph_objects as go

from kit.figures.style import GREY, INK, mark_stages

GAP = 46  # pixels between two panels: the heading of the lower one and the stages' names


@dataclass
class Panel:
    """traces: plotly's, as dicts without axes. y: settings of the y axis, with a `range` (its logarithms where `type`
    is "log").
    keys: (text, colour) of what the heading's right end explains."""

    heading: str
    height: float
    traces: list[dict[str, Any]]
    y: dict[str, Any]
    keys: Sequence[tuple[str, str]] = ()
    notes: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Column:
    """Where a stack of panels stands: from x0 to x1 of the plot area, `top` pixels below its upper edge. first: number
    of its y axes,
    x: name of the x axis that its panels share."""

    x0: float
    x1: float
    x: str = "x"
    first: int = 1
    top: float = 0.0


def stacked(panels: Sequence[Panel], gap: float = GAP) -> float:
    """Pixels that the panels take, one under another."""
    return sum(panel.height for panel in panels) + gap * (len(panels) - 1)


def add(
    figure: go.Figure,
    panels: Sequence[Panel],
    column: Column,
    height: float,
    spans: Sequence[tuple[str, int, int]],
    last: int,
    label: bool = True,
    gap: float = GAP,
    cursor: bool = True,
) -> list[int]:
    """Draw the panels into a plot area of `height` pixels, x from epoch 0 to `last`; returns the cursors' trace
    numbers, one per panel.

    spans: the stages, as from `stage_spans`; their names stand over the topmost panel if `label`.
    """
    cursors, at = [], column.top
    for k, panel in enumerate(panels):
        y = _axis("y", column.first + k)
        top, bottom = 1 - at / height, 1 - (at + panel.height) / height
        settings = {"domain": [max(bottom, 0.0), min(top, 1.0)], "anchor": column.x, **panel.y}
        figure.update_layout({f"yaxis{y[1:]}": settings})
        figure.add_traces(
            [{**_placed(trace, column, bottom, top), "xaxis": column.x, "yaxis": y} for trace in panel.traces]
        )
        low, high = (10**v for v in panel.y["range"]) if panel.y.get("type") == "log" else panel.y["range"]
        if cursor:
            cursors.append(len(figure.data))
            figure.add_trace(
                {
                    "type": "scatter",
                    "x": [last, last],
                    "y": [low, high],
                    "mode": "lines",
                    "line": {"color": INK, "width": 1.2},
                    "showlegend": False,
                    "hoverinfo": "skip",
                    "xaxis": column.x,
                    "yaxis": y,
                }
            )
        mark_stages(figure, spans, column.x, y, label=label and k == 0)
        _head(figure, panel, column, top)
        for note in panel.notes:
            figure.add_annotation(
                **note, xref=note.get("xref", column.x), yref=note.get("yref", f"{y} domain"), showarrow=False
            )
        at += panel.height + gap
    bottom = _axis("y", column.first + len(panels) - 1)
    figure.update_layout(
        {
            f"xaxis{column.x[1:]}": {
                "domain": [column.x0, column.x1],
                "anchor": bottom,
                "title": {"text": "epoch"},
                "range": [0, max(last, 1)],
            }
        }
    )
    return cursors


def _placed(trace: dict[str, Any], column: Column, bottom: float, top: float) -> dict[str, Any]:
    """A trace's colour bar, if it has one: of the panel's height, right of it."""
    if "colorbar" not in trace.get("marker", {}):
        return trace
    bar = {**trace["marker"]["colorbar"], "x": column.x1 + 0.008, "y": bottom, "len": (top - bottom) * 0.92}
    return {**trace, "marker": {**trace["marker"], "colorbar": bar}}


def _axis(letter: str, number: int) -> str:
    return letter if number == 1 else f"{letter}{number}"


def _head(figure: go.Figure, panel: Panel, column: Column, top: float) -> None:
    place = {"xref": "paper", "yref": "paper", "y": top, "yanchor": "bottom", "showarrow": False}
    figure.add_annotation(
        text=f"<b>{panel.heading}</b>", x=column.x0, xanchor="left", yshift=12, font={"size": 13, "color": INK}, **place
    )
    shift = 0.0
    for text, color in reversed(panel.keys):
        figure.add_annotation(
            text=text,
            x=column.x1,
            xanchor="right",
            xshift=-shift,
            yshift=12,
            font={"size": 12, "color": color},
            **place,
        )
        shift += 7.2 * len(text) + 14


# ---- pieces of panels ----------------------------------------------------------------------------


def line(
    x: Sequence[float], y: Sequence[float], name: str, color: str, dash: str = "solid", width: float = 2, **more: Any
) -> dict[str, Any]:
    """A curve; markers too where it has few points."""
    few = len(x) <= 40
    return {
        "type": "scatter",
        "x": list(x),
        "y": [_short(v) for v in y],
        "mode": "lines+markers" if few else "lines",
        "name": name,
        "line": {"color": color, "width": width, "dash": dash},
        "marker": {"size": 4, "color": color},
        "showlegend": False,
        "hovertemplate": f"epoch %{{x}}: {name} %{{y:.4~g}}<extra></extra>",
        **more,
    }


def level(y: float, last: float, color: str = GREY) -> dict[str, Any]:
    """A dashed horizontal line for comparison."""
    return {
        "type": "scatter",
        "x": [0, last],
        "y": [y, y],
        "mode": "lines",
        "line": {"color": color, "width": 1, "dash": "dash"},
        "showlegend": False,
        "hoverinfo": "skip",
    }


def _short(value: float) -> float | None:
    return None if not np.isfinite(value) else float(f"{value:.6g}")


def span(values: Sequence[np.ndarray], zero: bool = False, pad: float = 0.06) -> list[float]:
    """A range around all finite values; from 0 on if `zero`."""
    found = np.concatenate([np.asarray(v, dtype=float).ravel() for v in values]) if values else np.zeros(0)
    found = found[np.isfinite(found)]
    low, high = (float(found.min()), float(found.max())) if len(found) else (0.0, 1.0)
    low = min(low, 0.0) if zero else low
    room = (high - low) * pad or max(abs(high), 1e-12) * pad
    return [low if zero and low == 0 else low - room, high + room]


def log_span(values: Sequence[np.ndarray], decades: float = 3.0) -> list[float]:
    """Logarithms of a range around all positive values, at most so many decades below the largest: a cosine schedule
    ends at 0.
    """
    found = np.concatenate([np.asarray(v, dtype=float).ravel() for v in values]) if values else np.zeros(0)
    found = np.log10(found[np.isfinite(found) & (found > 0)])
    if not len(found):
        return [-1.0, 0.0]
    high = float(found.max())
    low = max(float(found.min()), high - decades)
    room = max(0.08 * (high - low), 0.04)
    return [low - room, high + room]
