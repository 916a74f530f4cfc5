"""Loss landscapes of several runs side by side (DHA Fig. 3): contours, surfaces and lines, on the same levels and axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kit.errors import KitError
from kit.figures.style import (
    DASHES,
    GREY,
    INK,
    SERIES,
    TEMPLATE,
    WIDTH,
    Panel,
    arrange,
    faint,
    legend_below_title,
    look,
)

if TYPE_CHECKING:
    from kit.studies.landscape import Landscape

COLORS = "Viridis"  # even steps for any kind of colour vision, and in grey
UNIT = "relative to the filter norm"
CAMERA = {"eye": {"x": 1.5, "y": -1.75, "z": 1.0}, "center": {"x": 0, "y": 0, "z": -0.08}}
MOST = 6  # panels of one figure


def levels(landscapes: Sequence[Landscape], top: float | None = None) -> list[float]:
    """Round losses (1, 2, 5, 10, …) at which all planes have their lines: from above the lowest loss up to `top`.

    top: None takes about ten times the loss of guessing, ln(classes): what lies above says that the network is broken,
    not how much."""
    lowest = min(float(np.nanmin(item.plane.values)) for item in landscapes)
    highest = max(float(np.nanmax(item.plane.values)) for item in landscapes)
    guess = math.log(max(2, len(landscapes[0].run.classes)))
    round_numbers = [m * 10.0**e for e in range(-12, 13) for m in (1, 2, 5)]
    top = min(
        top if top is not None else min((n for n in round_numbers if n >= 8 * guess), default=10 * guess), highest
    )
    chosen = [float(f"{n:.1g}") for n in round_numbers if lowest < n <= top]
    if len(chosen) < 3:  # a plane that hardly rises: even steps between its ends
        chosen = [float(v) for v in np.linspace(lowest, max(top, lowest * 1.001), 8)[1:-1]]
    return chosen[-12:]


def heights(values: np.ndarray, marks: Sequence[float]) -> np.ndarray:
    """Losses on a scale that is k at marks[k] and logarithmic in between; −1 … len(marks), clipped just below the ends."""
    logs = np.log(np.asarray(marks, float))
    # a step more on either side, so that what lies beyond the first and the last mark has a colour of its own
    first, last = (logs[1] - logs[0], logs[-1] - logs[-2]) if len(marks) > 1 else (1.0, 1.0)
    places = np.concatenate([[logs[0] - first], logs, [logs[-1] + last]])
    found = np.log(np.maximum(np.nan_to_num(values, nan=np.inf), 1e-300))
    return np.clip(np.interp(found, places, np.arange(-1, len(marks) + 1)), -0.999, len(marks) - 0.001)


def _text(loss: float) -> str:
    return f"{loss:.3g}" if loss < 1e4 else f"{loss:.0e}".replace("e+0", "e")


def _checked(landscapes: Sequence[Landscape]) -> list[Landscape]:
    shown = list(landscapes)
    if not 1 <= len(shown) <= MOST:
        hint = "landscape.one_each(…) takes one run per method"
        raise KitError(f"{len(shown)} landscapes: one figure shows 1 to {MOST} side by side; {hint}")
    for item in shown:
        if item.plane.values.ndim != 2:
            shape = list(item.plane.values.shape[2:])
            raise KitError(
                f"{item.label}: its metric gives arrays of shape {shape}; a figure shows one number per point"
            )
    return shown


def _columns(n: int) -> int:
    return min(n, 2 if n in (2, 4) else 3)


def _heading(item: Landscape) -> str:
    measured = f"test loss {item.plane.centre:.3g}, accuracy {item.run.metrics['test_accuracy']:.2%}"
    return f"<b>{item.label}</b><br>{measured}"


def _title(shown: Sequence[Landscape], what: str) -> str:
    dataset = shown[0].run.config.dataset.rstrip("/").rsplit("/", 1)[-1]
    return f"{dataset} · {what} ({shown[0].images:,} test images)"


def _colors(marks: Sequence[float]) -> dict[str, Any]:
    title = {"text": "test loss<br>[nats]", "side": "top", "font": {"size": 12}}
    ticks = {"tickvals": list(range(len(marks))), "ticktext": [_text(mark) for mark in marks]}
    return {"colorscale": COLORS, "colorbar": {"title": title, "thickness": 16, "outlinewidth": 0, **ticks}}


def contours(landscapes: Sequence[Landscape], top: float | None = None) -> go.Figure:
    """The plane of each run as filled contours, with the same levels and colours in all panels; losses above the last
    level are one colour. top: the last level, by default about ten times the loss of guessing."""
    shown = _checked(landscapes)
    marks, n = levels(shown, top), _columns(len(shown))
    step = 0.94 / n
    wide = step - 0.085 if n > 1 else 0.6
    panels = []
    for k, item in enumerate(shown):
        at, z = item.plane.coordinates, item.plane.values.T  # x along δ, y along η
        scale = {**_colors(marks), "zmin": -1, "zmax": len(marks), "showscale": k == min(n, len(shown)) - 1}
        plane = {"x": at, "y": at, "z": heights(z, marks), "customdata": z, "type": "contour"}
        lines = {
            "contours": {"start": -1, "end": len(marks), "size": 1},
            "line": {"color": faint("#FFFFFF", 0.75), "width": 1},
        }
        hover = {"hovertemplate": "a %{x:.3g}, b %{y:.3g}<br>loss %{customdata:.4g}<extra></extra>"}
        cross = {"symbol": "cross", "size": 9, "color": "white", "line": {"color": INK, "width": 1}}
        trained = {"type": "scatter", "x": [0], "y": [0], "mode": "markers", "marker": cross, "name": "trained model"}
        axis = {"range": [float(at[0]), float(at[-1])], "showgrid": False, "constrain": "domain", "nticks": 5}
        number = k // n + 1 + (k % n) * -(-len(shown) // n)  # `arrange` counts column by column
        x = {**axis, "title": {"text": f"a · δ, {UNIT}", "font": {"size": 12}}}
        y = {**axis, "title": {"text": f"b · η, {UNIT}" if k % n == 0 else "b · η", "font": {"size": 12}}}
        y |= {"scaleanchor": f"x{number if number > 1 else ''}", "constraintoward": "top"}
        traces = [plane | scale | lines | hover, trained]
        panels.append(Panel(_heading(item), traces, y, wide * (WIDTH - 125), x=x, epochs=False))
    columns = [(k * step, k * step + wide, panels[k::n]) for k in range(n)]
    return arrange(columns, _title(shown, "test loss around the trained model"), top=100, gap=120)


def surfaces(landscapes: Sequence[Landscape], top: float | None = None) -> go.Figure:
    """The plane of each run as a surface over (a, b): the same heights, colours and camera in all; cut off a step above
    the last level."""
    shown = _checked(landscapes)
    marks, n = levels(shown, top), _columns(len(shown))
    rows = -(-len(shown) // n)
    specs = [[{"type": "surface"}] * n] * rows
    titles = [_heading(item) for item in shown]
    figure = make_subplots(rows, n, specs=specs, subplot_titles=titles, horizontal_spacing=0.01, vertical_spacing=0.12)
    figure.update_annotations(font_size=12)
    ticks = list(range(len(marks) - 1, -1, -2))[::-1]
    plain = {"backgroundcolor": "white", "gridcolor": "#DDDDDD", "showspikes": False, "zeroline": False, "nticks": 5}
    for k, item in enumerate(shown):
        at, z = item.plane.coordinates, item.plane.values.T
        scale = {**_colors(marks), "cmin": -1, "cmax": len(marks), "showscale": k == 0}
        lines = {"z": {"show": True, "start": 0, "end": len(marks) - 1, "size": 1, "color": "white", "width": 1}}
        light = {"ambient": 0.85, "diffuse": 0.3, "specular": 0.02}
        hover = {"hovertemplate": "a %{x:.3g}, b %{y:.3g}<br>loss %{customdata:.4g}<extra></extra>", "customdata": z}
        surface = go.Surface(x=at, y=at, z=heights(z, marks), lighting=light, contours=lines, **scale, **hover)
        figure.add_trace(surface, k // n + 1, k % n + 1)
    words = [_text(marks[k]) + (" nats" if k == ticks[-1] else "") for k in ticks]  # a title would stand outside
    figure.update_scenes(
        camera=CAMERA,
        aspectmode="manual",
        aspectratio={"x": 1, "y": 1, "z": 0.75},
        xaxis={**plain, "title": {"text": "a · δ"}},
        yaxis={**plain, "title": {"text": "b · η"}},
        zaxis={**plain, "title": {"text": ""}, "range": [-1, len(marks)], "tickvals": ticks, "ticktext": words},
    )
    title = f"{_title(shown, 'test loss around the trained model')}; a, b {UNIT}"
    margin = {"l": 10, "r": 110, "t": 105, "b": 10}
    return figure.update_layout(
        template=TEMPLATE,
        height=115 + (560 if n == 1 else 400 if n == 2 else 330) * rows,
        margin=margin,
        title_text=title,
    )


def lines(landscapes: Sequence[Landscape], top: float | None = None) -> go.Figure:
    """Loss along random directions: the mean over each run's directions, and the 95% interval of that mean as a band."""
    shown = _checked(landscapes)
    marks = levels(shown, top)
    figure = go.Figure(layout={"template": TEMPLATE, "height": 560, "margin": {"t": 125}})
    least = min(item.lines.centre for item in shown)
    reach = 0.0
    for item, (color, dash) in zip(shown, _looks(shown)):
        at, (mean, low, high) = item.lines.coordinates, item.lines.band()
        if np.isfinite(low).all():  # one direction has no interval
            edge = {"mode": "lines", "line": {"width": 1, "color": faint(color, 0.45)}, "hoverinfo": "skip"}
            figure.add_scatter(x=at, y=np.maximum(low, least / 2), showlegend=False, **edge)
            figure.add_scatter(x=at, y=high, fill="tonexty", fillcolor=faint(color, 0.15), showlegend=False, **edge)
        line = {"color": color, "dash": dash, "width": 2.5}
        figure.add_scatter(
            x=at, y=mean, mode="lines", name=f"{item.label} (n = {item.lines.directions} directions)", line=line
        )
        inside = np.flatnonzero(mean <= marks[-1])  # and one step more, as far as some run's mean is in the picture
        if len(inside):
            ends = at[[max(inside.min() - 1, 0), min(inside.max() + 1, len(at) - 1)]]
            reach = max(reach, float(np.abs(ends).max()))
    guess = math.log(max(2, len(shown[0].run.classes)))
    if guess < marks[-1]:
        place = {"annotation_position": "bottom left", "annotation_font": {"size": 11, "color": GREY}}
        figure.add_hline(
            guess, line={"color": GREY, "dash": "dot", "width": 1}, annotation_text="guessing: ln(classes)", **place
        )
    figure.update_xaxes(title_text=f"t · d, {UNIT}", range=[-reach, reach] if reach else None)
    ticks = {"type": "log", "tickvals": marks, "ticktext": [_text(mark) for mark in marks]}
    reach_y = [math.log10(least / 1.5), math.log10(marks[-1])]
    figure.update_yaxes(title_text="test loss [nats]: mean and 95% interval", range=reach_y, **ticks)
    return figure.update_layout(
        title_text=_title(shown, "test loss along random directions"), legend=legend_below_title(560)
    )


def _looks(shown: Sequence[Landscape]) -> list[tuple[str, str]]:
    """The methods' own colours; runs of one method by their dash, or by colours of their own where that is not enough."""
    found: list[tuple[str, str]] = []
    for k, item in enumerate(shown):
        color, _, dash = look(item.run.config.method)
        free = [(color, d) for d in (dash, *DASHES)] + [(SERIES[k % len(SERIES)], "longdash")]
        found.append(next((one for one in free if one not in found), free[-1]))
    return found
