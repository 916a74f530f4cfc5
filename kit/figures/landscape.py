"""Loss landscapes of several runs side by side (DHA Fig. 3): contours, surfaces and lines on the same levels."""

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

UNIT = "relative to the filter norm"
CAMERA = {"eye": {"x": 1.7, "y": -2.0, "z": 1.15}, "center": {"x": 0, "y": 0, "z": -0.08}}
MOST = 6  # panels of one figure
HOVER = "a %{x:.3g}, b %{y:.3g}<br>loss %{customdata:.4g}<extra></extra>"


def levels(landscapes: Sequence[Landscape], top: float | None = None) -> list[float]:
    """Round losses (1, 2, 5, 10, …) at which all planes have their lines: from above the lowest loss up to `top`.

    top: None takes about ten times the loss of guessing, ln(classes): what lies above says that the network is broken,
    not how much."""
    lowest = min(float(np.nanmin(item.plane.values)) for item in landscapes)
    highest = max(float(np.nanmax(item.plane.values)) for item in landscapes)
    guess = _guess(landscapes)
    round_numbers = [m * 10.0**e for e in range(-12, 13) for m in (1, 2, 5)]
    top = min(next(n for n in round_numbers if n >= 8 * guess) if top is None else top, highest)
    chosen = [float(f"{n:.1g}") for n in round_numbers if lowest < n <= top]
    if len(chosen) < 3:  # a plane that hardly rises: even steps between its ends
        chosen = [float(v) for v in np.linspace(lowest, max(top, lowest * 1.001), 8)[1:-1]]
    return chosen[-12:]


def heights(values: np.ndarray, marks: Sequence[float]) -> np.ndarray:
    """Losses on a scale that is k at marks[k] and logarithmic in between, clipped just below −1 and len(marks)."""
    logs = np.log(np.asarray(marks, float))
    # a step more on either side, so that what lies beyond the first and the last mark has a colour of its own
    places = np.concatenate([[2 * logs[0] - logs[1]], logs, [2 * logs[-1] - logs[-2]]])
    found = np.log(np.maximum(np.nan_to_num(values, nan=np.inf), 1e-300))
    return np.clip(np.interp(found, places, np.arange(-1, len(marks) + 1)), -0.999, len(marks) - 0.001)


def _guess(landscapes: Sequence[Landscape]) -> float:
    return math.log(max(2, len(landscapes[0].run.classes)))


def _text(loss: float) -> str:
    return f"{loss:.3g}" if loss < 1e4 else f"{loss:.0e}".replace("e+0", "e")


def _checked(landscapes: Sequence[Landscape]) -> tuple[list[Landscape], int]:
    """The landscapes and the number of panels in a row."""
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
    return shown, min(len(shown), 2 if len(shown) in (2, 4) else 3)


def _heading(item: Landscape) -> str:
    accuracy = item.run.metrics["test_accuracy"]
    return f"<b>{item.label}</b><br>test loss {item.plane.centre:.3g}, accuracy {accuracy:.2%}"


def _title(shown: Sequence[Landscape], what: str) -> str:
    dataset = shown[0].run.config.dataset.rstrip("/").rsplit("/", 1)[-1]
    return f"{dataset} · test loss {what} ({shown[0].images:,} test images)"


def _plane(item: Landscape, marks: Sequence[float], scale: bool) -> dict[str, Any]:
    """What contours and surfaces have in common; x along δ, y along η. scale: whether the colours are explained."""
    at, z = item.plane.coordinates, item.plane.values.T
    title = {"text": "test loss<br>[nats]", "side": "top", "font": {"size": 12}}
    ticks = {"tickvals": list(range(len(marks))), "ticktext": [_text(mark) for mark in marks]}
    # even steps for any kind of colour vision, and in grey
    colors = {"colorscale": "Viridis", "colorbar": {"title": title, "thickness": 16, "outlinewidth": 0, **ticks}}
    content = {"x": at, "y": at, "z": heights(z, marks), "customdata": z, "hovertemplate": HOVER}
    return {**content, "showscale": scale, **colors}


def contours(landscapes: Sequence[Landscape], top: float | None = None) -> go.Figure:
    """The plane of each run as filled contours, with the same levels and colours in all panels; losses above the last
    level are one colour. top: the last level, by default about ten times the loss of guessing."""
    shown, n = _checked(landscapes)
    marks = levels(shown, top)
    wide = 0.94 / n - 0.085 if n > 1 else 0.6
    panels = []
    for k, item in enumerate(shown):
        look_ = {"contours": {"start": -1, "end": len(marks), "size": 1}, "line": {"color": "white", "width": 1}}
        plane = {"type": "contour", "zmin": -1, "zmax": len(marks), **look_, **_plane(item, marks, k == n - 1)}
        cross = {"symbol": "cross", "size": 9, "color": "white", "line": {"color": INK, "width": 1}}
        trained = {"type": "scatter", "x": [0], "y": [0], "mode": "markers", "marker": cross, "name": "trained model"}
        axis = {"range": [plane["x"][0], plane["x"][-1]], "showgrid": False, "constrain": "domain", "nticks": 5}
        x = axis | {"title": {"text": f"a · δ, {UNIT}", "font": {"size": 12}}}
        y = axis | {"title": {"text": "b · η" if k % n else f"b · η, {UNIT}", "font": {"size": 12}}}
        y |= {"constraintoward": "top"}
        panels.append(Panel(_heading(item), [plane, trained], y, wide * (WIDTH - 125), x=x, epochs=False, square=True))
    columns = [(k * 0.94 / n, k * 0.94 / n + wide, panels[k::n]) for k in range(n)]
    return arrange(columns, _title(shown, "around the trained model"), top=100, gap=120)


def surfaces(landscapes: Sequence[Landscape], top: float | None = None) -> go.Figure:
    """The plane of each run as a surface over (a, b): the same heights, colours and camera in all; cut off a step above
    the last level."""
    shown, n = _checked(landscapes)
    marks, rows = levels(shown, top), -(-len(shown) // n)
    spacing = {"horizontal_spacing": 0.02, "vertical_spacing": 0.12}
    specs = [[{"type": "surface"}] * n] * rows
    figure = make_subplots(rows, n, specs=specs, subplot_titles=[_heading(item) for item in shown], **spacing)
    for k, item in enumerate(shown):
        lines = {"z": {"show": True, "start": 0, "end": len(marks) - 1, "size": 1, "color": "white", "width": 1}}
        light = {"ambient": 0.85, "diffuse": 0.3, "specular": 0.02}
        look_ = {"cmin": -1, "cmax": len(marks), "lighting": light, "contours": lines}
        figure.add_trace(go.Surface(**_plane(item, marks, k == 0), **look_), k // n + 1, k % n + 1)
    ticks = list(range(len(marks) - 1, -1, -2))[::-1]
    small = {"tickfont": {"size": 11}, "nticks": 5}
    plain = {"backgroundcolor": "white", "gridcolor": "#DDDDDD", "showspikes": False, **small}
    names = {
        f"{k}axis": {**plain, "title": {"text": text, "font": {"size": 12}}}
        for k, text in zip("xy", ("a · δ", "b · η"))
    }
    words = [_text(marks[k]) for k in ticks]
    z = plain | {"title": {"text": ""}, "range": [-1, len(marks)], "tickvals": ticks, "ticktext": words}
    ratio = {"aspectmode": "manual", "aspectratio": {"x": 1, "y": 1, "z": 0.75}}
    figure.update_scenes(camera=CAMERA, zaxis=z, **names, **ratio)
    height, title = 115 + {1: 560, 2: 430, 3: 330}[n] * rows, _title(shown, "around the trained model")
    figure.update_layout(template=TEMPLATE, height=height, margin={"l": 30, "r": 110, "t": 105, "b": 10})
    return figure.update_layout(title_text=f"{title}; a, b {UNIT}").update_annotations(font_size=12)


def lines(landscapes: Sequence[Landscape], top: float | None = None) -> go.Figure:
    """Loss along random directions: the mean over each run's directions, and its 95% interval as a band."""
    shown, _ = _checked(landscapes)
    marks, guess, reach = levels(shown, top), _guess(shown), 0.0
    figure = go.Figure(layout={"template": TEMPLATE, "height": 560, "margin": {"t": 125}})
    least = min(item.lines.centre for item in shown)
    for item, (color, dash) in zip(shown, _looks(shown)):
        at, (mean, low, high) = item.lines.coordinates, item.lines.band()
        if np.isfinite(low).all():  # one direction has no interval
            edge = {
                "mode": "lines",
                "hoverinfo": "skip",
                "showlegend": False,
                "line": {"width": 1, "color": faint(color, 0.45)},
            }
            figure.add_scatter(x=at, y=np.maximum(low, least / 2), **edge)
            figure.add_scatter(x=at, y=high, fill="tonexty", fillcolor=faint(color, 0.15), **edge)
        name = f"{item.label} (n = {item.lines.directions} directions)"
        line = {"color": color, "dash": dash, "width": 2.5}
        figure.add_scatter(x=at, y=mean, mode="lines", name=name, line=line)
        inside = np.flatnonzero(mean <= marks[-1])  # and one step more, as far as some run's mean is in the picture
        if len(inside):
            reach = max(reach, *np.abs(at[[max(inside.min() - 1, 0), min(inside.max() + 1, len(at) - 1)]]).tolist())
    if guess < marks[-1] and reach:
        line = {"color": GREY, "width": 1, "dash": "dot"}
        figure.add_scatter(x=[-reach, reach], y=[guess] * 2, mode="lines", line=line, name="guessing: ln(classes)")
    figure.update_xaxes(title_text=f"t · d, {UNIT}", range=[-reach, reach] if reach else None)
    ticks = {"type": "log", "tickvals": marks, "ticktext": [_text(mark) for mark in marks]}
    ticks["range"] = [math.log10(least / 1.5), math.log10(marks[-1])]
    figure.update_yaxes(title_text="test loss [nats]: mean and 95% interval", **ticks)
    figure.update_layout(legend=legend_below_title(560) | {"traceorder": "normal"})
    return figure.update_layout(title_text=_title(shown, "along random directions"))


def _looks(shown: Sequence[Landscape]) -> list[tuple[str, str]]:
    """The methods' own colours; runs of one method have dashes, or colours of their own where that is not enough."""
    found: list[tuple[str, str]] = []
    for k, item in enumerate(shown):
        color, _, dash = look(item.run.config.method)
        free = [*((color, d) for d in (dash, *DASHES)), (SERIES[k % len(SERIES)], "longdash")]
        found.append(next((one for one in free if one not in found), free[-1]))
    return found
