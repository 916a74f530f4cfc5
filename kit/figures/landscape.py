"""Loss landscapes of several runs side by side (DHA Fig. 3): contours, surfaces and lines on the same scale."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.colors
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kit.figures.style import DASHES, DOTTED, TEMPLATE, look

Landscapes = Sequence[Any]  # what `kit.landscape.compare` returns
UNIT = "relative to the filter norm"
CAMERA = {"eye": {"x": 1.7, "y": -2.0, "z": 1.15}, "center": {"x": 0, "y": 0, "z": -0.08}}
LEVELS = 9  # steps from the lowest loss to the highest
HOVER = "a %{x:.3g}, b %{y:.3g}<br>loss %{customdata:.4g}<extra></extra>"


def contours(landscapes: Landscapes) -> go.Figure:
    """The plane of each run as filled contours, with the same levels and colours in all panels; losses above ten times
    the loss of guessing are one colour. The cross is the trained model."""
    figure = _planes(landscapes, go.Contour, line={"color": "white", "width": 1})
    figure.add_scatter(x=[0], y=[0], row="all", col="all", name="trained model", hoverinfo="name", showlegend=False)
    figure.update_traces(marker={"symbol": "cross", "size": 9, "color": "white"}, selector={"type": "scatter"})
    figure.update_xaxes(title_text=f"a · δ, {UNIT}", constrain="domain", showgrid=False)
    figure.update_yaxes(title_text="b · η", col=1)
    figure.update_yaxes(constrain="domain", constraintoward="top", showgrid=False)
    for k, axis in enumerate(figure.select_yaxes(), start=1):
        axis.scaleanchor = f"x{k}"
    return figure


def surfaces(landscapes: Landscapes) -> go.Figure:
    """The plane of each run as a surface over (a, b): the same heights, colours and camera in all."""
    figure = _planes(landscapes, go.Surface, lighting={"ambient": 0.85, "diffuse": 0.3, "specular": 0.02})
    bar, small = figure.layout.coloraxis.colorbar, {"nticks": 5, "tickfont": {"size": 10}}
    x, y, z = ({"title": {"text": text}, **small} for text in ("a · δ", "b · η", ""))
    z |= {"tickvals": bar.tickvals[::2], "ticktext": bar.ticktext[::2]}
    ratio = {"aspectmode": "manual", "aspectratio": {"x": 1, "y": 1, "z": 0.75}}
    return figure.update_scenes(camera=CAMERA, xaxis=x, yaxis=y, zaxis=z, **ratio)


def lines(landscapes: Landscapes) -> go.Figure:
    """Loss along random directions: the mean over each run's directions, and its 95% interval as a band."""
    low, high = _span(landscapes)
    figure = go.Figure(layout={"template": TEMPLATE, "height": 560})
    for k, item in enumerate(landscapes):
        color = look(item.run.config.method).color
        at, (mean, below, above) = item.lines.coordinates, item.lines.band()
        if np.isfinite(below).all():  # one direction has no interval
            band = {"mode": "lines", "hoverinfo": "skip", "showlegend": False, "line": {"width": 0, "color": color}}
            figure.add_scatter(x=at, y=np.maximum(below, low / 2), **band)
            faint = f"rgba{(*plotly.colors.hex_to_rgb(color), 0.15)}"
            figure.add_scatter(x=at, y=above, fill="tonexty", fillcolor=faint, **band)
        name = f"{item.label} (n = {len(item.lines.values)} directions)"
        line = {"color": color, "dash": DASHES[k % len(DASHES)]}
        figure.add_scatter(x=at, y=mean, mode="lines", name=name, line=line)
    figure.add_hline(_guess(landscapes), line=DOTTED)
    figure.update_xaxes(title_text=f"t · d, {UNIT}")
    limits = [math.log10(low / 1.5), math.log10(high)]
    figure.update_yaxes(title_text="test loss [nats]: mean and 95% interval", type="log", range=limits)
    legend = {"orientation": "h", "y": -0.15, "yanchor": "top", "traceorder": "normal"}
    title = f"{_title(landscapes)} along random directions (dotted: guessing)"
    return figure.update_layout(title_text=title, legend=legend)


def _planes(landscapes: Landscapes, kind: type, **looks: Any) -> go.Figure:
    """A panel for each plane, coloured by log₁₀ of the loss; x along δ, y along η."""
    low, high = np.log10(_span(landscapes))
    step = (high - low) / LEVELS
    level = {"start": low, "end": high - step / 2, "size": step}
    level = {"z": {"show": True, "color": "white", **level}} if kind is go.Surface else level
    columns = {1: 1, 2: 2, 4: 2}.get(len(landscapes), 3)
    rows = -(-len(landscapes) // columns)
    specs = [[{"type": "surface" if kind is go.Surface else "xy"}] * columns] * rows
    words = "<b>{}</b><br>test loss {:.3g}, accuracy {:.2%}"
    titles = [words.format(item.label, item.plane.centre, item.run.metrics["test_accuracy"]) for item in landscapes]
    figure = make_subplots(rows, columns, specs=specs, subplot_titles=titles, vertical_spacing=0.3 / rows)
    for k, item in enumerate(landscapes):
        at, losses = item.plane.coordinates, item.plane.values.T
        heights = np.clip(np.log10(np.nan_to_num(losses, nan=np.inf)), low, high)
        content = {"x": at, "y": at, "z": heights, "customdata": losses, "hovertemplate": HOVER, "contours": level}
        figure.add_trace(kind(**content, coloraxis="coloraxis", **looks), k // columns + 1, k % columns + 1)
    ticks = np.linspace(low, high, LEVELS + 1)
    bar = {"title": {"text": "test loss<br>[nats]"}, "tickvals": ticks, "ticktext": [f"{10**t:.3g}" for t in ticks]}
    axis = {"colorscale": "Viridis", "cmin": low, "cmax": high, "colorbar": bar}  # even steps, in grey too
    height = 130 + {1: 600, 2: 440, 3: 340}[columns] * rows
    title = f"{_title(landscapes)} around the trained model"
    figure.update_layout(template=TEMPLATE, title_text=title, coloraxis=axis, height=height, margin_t=120)
    return figure.update_annotations(font_size=12)


def _span(landscapes: Landscapes) -> tuple[float, float]:
    """The lowest and the highest loss that all panels show: what lies far above guessing says that the network is
    broken, not how much."""
    values = np.concatenate([item.plane.values.ravel() for item in landscapes])
    lowest = max(float(np.nanmin(values)), 1e-9)
    return lowest, max(min(10 * _guess(landscapes), float(np.nanmax(values))), lowest * 1.001)


def _title(landscapes: Landscapes) -> str:
    first = landscapes[0]
    return f"{Path(first.run.config.dataset).name} · test loss ({first.images:,} test images)"


def _guess(landscapes: Landscapes) -> float:
    return math.log(max(2, len(landscapes[0].run.classes)))
