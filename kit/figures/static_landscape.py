"""The static twin of surfaces: matplotlib's 3D axes where plotly has a scene; the rest of the picture as
`kit.figures.static` draws it.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from matplotlib.cm import ScalarMappable
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator

from kit.figures.static import Sheet
from kit.figures.static import png as flat_png
from kit.figures.static_text import color, font, words
from kit.figures.static_traces import _colorbar, _norm, _scale

if TYPE_CHECKING:
    from mpl_toolkits.mplot3d import Axes3D

SIGHT = 0.97  # matplotlib's zoom at which its box fills a scene as plotly's does


def png(figure: go.Figure, path: str | Path | None = None, width: int = 1200, height: int | None = None) -> bytes:
    """As `kit.figures.png`, with surfaces drawn as well."""
    if not any(isinstance(trace, go.Surface) for trace in figure.data):
        return flat_png(figure, path, width, height)
    sheet = SurfaceSheet(figure, width, height)
    sheet.draw()
    buffer = io.BytesIO()
    sheet.canvas.print_png(buffer)
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(buffer.getvalue())
    return buffer.getvalue()


class SurfaceSheet(Sheet):
    """A sheet whose surfaces stand apart from the traces that flat axes take."""

    def __init__(self, figure: go.Figure, width: int, height: int | None):
        super().__init__(figure, width, height)
        self.surfaces = [trace for trace in self.traces if trace.get("type") == "surface"]
        self.traces = [trace for trace in self.traces if trace.get("type") != "surface"]

    def draw(self) -> None:
        super().draw()
        for trace in self.surfaces:
            self._surface(trace)

    def _surface(self, trace: dict[str, Any]) -> None:
        scene = self.layout.get(trace.get("scene", "scene"), {})
        z = np.array(trace["z"], dtype=float)
        x, y = (
            np.array(trace[k] if trace.get(k) is not None else range(n), dtype=float) for k, n in zip("xy", z.T.shape)
        )
        settings = {
            "zmin": trace.get("cmin"),
            "zmax": trace.get("cmax"),
            "colorscale": trace.get("colorscale"),
            "colorbar": trace.get("colorbar"),
            "showscale": trace.get("showscale", True),
        }
        norm, scale = _norm(z, settings), _scale(settings["colorscale"])
        axes = self._axes3d(scene)
        # unshaded: a colour is a loss, as the colour bar says; the mesh gives the shape
        axes.plot_surface(
            *np.meshgrid(x, y),
            z,
            rcount=len(y),
            ccount=len(x),
            facecolors=scale(norm(z)),
            shade=False,
            linewidth=0.35,
            edgecolor=(1, 1, 1, 0.6),
            antialiased=True,
        )
        self._dress3d(axes, scene, z)
        if settings["showscale"] is not False:
            _colorbar(self, ScalarMappable(norm, scale), settings)

    def _axes3d(self, scene: dict[str, Any]) -> Axes3D:
        left, bottom, wide, high = self.area
        (x0, x1), (y0, y1) = ((scene.get("domain") or {}).get(k, (0.0, 1.0)) for k in "xy")
        rect = (left + x0 * wide, bottom + y0 * high, (x1 - x0) * wide, (y1 - y0) * high)
        axes = self.picture.add_axes(rect, projection="3d", computed_zorder=True, facecolor="none")
        eye = {"x": 1.25, "y": 1.25, "z": 1.25, **((scene.get("camera") or {}).get("eye") or {})}  # plotly's default
        axes.view_init(
            elev=math.degrees(math.atan2(eye["z"], math.hypot(eye["x"], eye["y"]))),
            azim=math.degrees(math.atan2(eye["y"], eye["x"])),
        )
        ratio = {"x": 1, "y": 1, "z": 1, **(scene.get("aspectratio") or {})}
        axes.set_box_aspect([ratio[k] for k in "xyz"], zoom=SIGHT)
        return axes

    def _dress3d(self, axes: Axes3D, scene: dict[str, Any], z: np.ndarray) -> None:
        default = self.layout.get("font", {})
        for letter in "xyz":
            settings, axis = scene.get(f"{letter}axis", {}), getattr(axes, f"{letter}axis")
            if settings.get("range"):
                getattr(axes, f"set_{letter}lim")(*settings["range"])
            if settings.get("tickvals") is not None:
                axis.set_major_locator(FixedLocator(settings["tickvals"]))
                axis.set_major_formatter(
                    FixedFormatter([words(t) for t in settings.get("ticktext") or settings["tickvals"]])
                )
            else:
                axis.set_major_locator(MaxNLocator(settings.get("nticks", 5), steps=[1, 2, 2.5, 5, 10]))
            text = font(settings.get("tickfont"), default)
            axis.set_tick_params(labelsize=text["fontsize"], labelcolor=text["color"], pad=0)
            axis.set_pane_color(color(settings.get("backgroundcolor", "white")))
            axis._axinfo["grid"].update(color=color(settings.get("gridcolor", "#ddd")), linewidth=0.6)
            title = settings.get("title") or {}
            axis.set_label_text(words(title.get("text", "")), **font(title.get("font"), default))
            axis.labelpad = -5 if letter == "z" else 0  # points; matplotlib's own leaves room for long tick labels
