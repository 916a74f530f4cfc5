"""Static twins of plotly figures, drawn by matplotlib: no browser, so that servers and containers have pictures too.

What it draws: scatter (lines, markers, text, error bars, fills), bar, heatmap, contour, image; subplots, secondary,
logarithmic and category
axes; titles, legend, annotations with arrows, lines and rectangles. Anything else raises KitError, which names it.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D, Transform

from kit.figures import static_axes, static_notes, static_traces

DPI = 100
HEIGHT, MARGINS = 450, {"l": 80, "r": 80, "t": 100, "b": 80}  # plotly's defaults, in pixels


def png(figure: go.Figure, path: str | Path | None = None, width: int = 1200, height: int | None = None) -> bytes:
    """The figure as PNG bytes, `width` × `height` pixels (height: the figure's own by default); also written to `path`
    if given.
    """
    sheet = Sheet(figure, width, height)
    sheet.draw()
    if sheet.grow_margins():  # as plotly's automargin: labels that would be cut off push the plot inwards
        sheet.draw()
    buffer = io.BytesIO()
    sheet.canvas.print_png(buffer)
    data = buffer.getvalue()
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(data)
    return data


class Sheet:
    """One picture in the making: the figure's layout with its template filled in, and matplotlib's axes per pair of
    plotly axes.
    """

    def __init__(self, figure: go.Figure, width: int, height: int | None):
        figure = (
            go.Figure(data=figure.data, layout=figure.layout) if isinstance(figure, go.Figure) else go.Figure(figure)
        )  # no copy of frames
        layout = plain(figure.layout.to_plotly_json())
        template = plain(figure.layout.template.to_plotly_json()) if figure.layout.template else {}
        self.defaults = template.get("layout", {})
        self.layout = merged(self.defaults, layout)
        self.traces = [
            trace for trace in (plain(t.to_plotly_json()) for t in figure.data) if trace.get("visible", True) is True
        ]
        controls = (self.layout.get("meta") or {}).get("controls", 0)  # the room of a slider, which no picture needs
        self.width, self.height = int(width), int(height or (self.layout.get("height") or HEIGHT) - controls)
        self.margins = {**MARGINS, **{k: v for k, v in self.layout.get("margin", {}).items() if k in MARGINS}}
        self.margins["t"] -= controls

    def draw(self) -> None:
        self.picture = Figure(
            figsize=(self.width / DPI, self.height / DPI), dpi=DPI, facecolor=self.layout.get("paper_bgcolor", "white")
        )
        self.canvas = FigureCanvasAgg(self.picture)
        self.pairs: dict[tuple[str, str], Axes] = {}
        self.categories: dict[str, dict[str, int]] = {}
        self.filled: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}  # the line before, for fill="tonexty"
        self.stacked: dict[tuple[str, str], dict[float, float]] = {}  # the height of the bars so far
        static_axes.collect_categories(self)
        for index, trace in enumerate(self.traces):
            static_traces.draw(self, trace, index)
        static_notes.open_axes(self)
        static_axes.finish(self)
        static_notes.shapes(self)
        static_notes.annotations(self)
        static_notes.title(self)
        static_notes.legend(self)

    def grow_margins(self) -> bool:
        box = self.picture.get_tightbbox(self.canvas.get_renderer())  # inches
        over = {"l": -box.x0 * DPI, "b": -box.y0 * DPI, "r": box.x1 * DPI - self.width, "t": box.y1 * DPI - self.height}
        for side, pixels in over.items():
            if pixels > 0:
                self.margins[side] += pixels + 8
        return any(pixels > 0 for pixels in over.values())

    # ---- where things are ------------------------------------------------------------------------

    @property
    def area(self) -> tuple[float, float, float, float]:
        """The plot area ("paper" in plotly's words): left, bottom, width, height as fractions of the picture."""
        m = self.margins
        wide, high = max(self.width - m["l"] - m["r"], 10), max(self.height - m["t"] - m["b"], 10)
        return m["l"] / self.width, m["b"] / self.height, wide / self.width, high / self.height

    def paper(self) -> Transform:
        """From paper coordinates to the screen."""
        left, bottom, wide, high = self.area
        return Affine2D().scale(wide, high).translate(left, bottom) + self.picture.transFigure

    def axis(self, name: str) -> dict[str, Any]:
        """Settings of axis "x2": its own over the template's for all x axes."""
        return merged(self.defaults.get(f"{name[0]}axis", {}), self.layout.get(f"{name[0]}axis{name[1:]}", {}))

    def axes(self, x: str, y: str) -> Axes:
        """matplotlib's axes of a pair of plotly axes, made at first use."""
        if (x, y) not in self.pairs:
            left, bottom, wide, high = self.area
            (x0, x1), (y0, y1) = (static_axes.domain(self, name) for name in (x, y))
            rect = (left + x0 * wide, bottom + y0 * high, (x1 - x0) * wide, (y1 - y0) * high)
            axes = self.picture.add_axes(rect, label=f"{x}/{y}", facecolor=self.layout.get("plot_bgcolor", "white"))
            axes.set_axisbelow(True)
            if self.axis(x).get("type") == "log":
                axes.set_xscale("log")
            if self.axis(y).get("type") == "log":
                axes.set_yscale("log")
            self.pairs[x, y] = axes
        return self.pairs[x, y]

    def numbers(self, values: Any, axis: str) -> np.ndarray:
        """Data as float; names become their places on a category axis; what is missing becomes NaN."""
        if axis in self.categories:
            places = self.categories[axis]
            return np.array([places.get(str(v), np.nan) for v in values], dtype=float)
        return np.array([np.nan if v is None else v for v in values], dtype=float)


def plain(value: Any) -> Any:
    """plotly's JSON with its packed arrays unpacked; numpy arrays and tuples become lists."""
    if isinstance(value, dict):
        if "bdata" in value:
            array = np.frombuffer(base64.b64decode(value["bdata"]), dtype=value["dtype"])
            shape = value.get("shape")
            return (array.reshape([int(n) for n in str(shape).split(",")]) if shape else array).tolist()
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value


def merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    result = dict(under)
    for key, value in over.items():
        result[key] = (
            merged(result[key], value) if isinstance(value, dict) and isinstance(result.get(key), dict) else value
        )
    return result
