"""Maps in tiles: filled outlines, one trace per colour. plotly's heat maps are pictures that the browser decodes anew,
so they flash white at
every frame of an animation; these do not, and stay sharp at any size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LEVELS = 21  # shades of a colour scale: a trace each, and every frame draws them all
Rectangle = tuple[float, float, float, float]  # x0, x1, y0, y1


def outlines(rectangles: Sequence[Rectangle]) -> dict[str, np.ndarray]:
    """x and y of closed outlines with gaps between them, float32; one point nowhere where there is none."""
    if not len(rectangles):
        return {"x": np.full(1, np.nan, np.float32), "y": np.full(1, np.nan, np.float32)}
    sides = np.asarray(rectangles, dtype=np.float32)
    gap = np.full(len(sides), np.nan, np.float32)
    x0, x1, y0, y1 = sides.T
    x, y = (
        np.stack([x0, x1, x1, x0, x0, gap], axis=1).ravel()[:-1],
        np.stack([y0, y0, y1, y1, y0, gap], axis=1).ravel()[:-1],
    )
    return {"x": x, "y": y}


def filled(rectangles: Sequence[Rectangle], color: str, **look: Any) -> dict[str, Any]:
    """A trace of rectangles in one colour."""
    return {
        "type": "scatter",
        **outlines(rectangles),
        "mode": "lines",
        "line": {"width": 0, "color": color},
        "fill": "toself",
        "fillcolor": color,
        "hoverinfo": "skip",
        "showlegend": False,
        **look,
    }


def values(x: Sequence[float], y: Sequence[float], shown: Sequence[Any], hover: str, **look: Any) -> dict[str, Any]:
    """An invisible trace that tells the value of the tile under the mouse. hover: plotly's template of %{customdata}
    and %{hovertext}.
    """
    return {
        "type": "scatter",
        "x": np.asarray(x, dtype=np.float32),
        "y": np.asarray(y, dtype=np.float32),
        "mode": "none",
        "customdata": np.asarray(shown),
        "showlegend": False,
        "hovertemplate": f"{hover}<extra></extra>",
        **look,
    }


class Scale:
    """A colour scale in steps. low, high: the values of its ends; colorscale: (share, "#rrggbb") from 0 to 1; count: of
    steps, odd.
    """

    def __init__(self, low: float, high: float, colorscale: Sequence[Sequence[Any]], count: int = LEVELS):
        self.low, self.high, self.colorscale, self.count = low, high, [list(entry) for entry in colorscale], count
        at, colors = zip(*colorscale)
        steps = np.linspace(0, 1, count)
        channels = [
            np.interp(steps, at, [int(color[i : i + 2], 16) for color in colors]).round().astype(int) for i in (1, 3, 5)
        ]
        self.colors = [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in zip(*channels)]

    def levels(self, z: np.ndarray) -> np.ndarray:
        """The step of every value: int of z's shape."""
        share = (np.asarray(z, dtype=float) - self.low) / max(self.high - self.low, 1e-12)
        return (share.clip(0, 1) * (self.count - 1)).round().astype(int)

    def bar(self, settings: Mapping[str, Any], **look: Any) -> dict[str, Any]:
        """A trace that draws nothing but the colour bar."""
        placed = {
            "xanchor": "left",
            "xpad": 0,
            "ypad": 0,
            "yanchor": "bottom",
            "thickness": 10,
            "outlinewidth": 0,
            "tickfont": {"size": 10},
            **settings,
        }
        return {
            "type": "scatter",
            "x": [None],
            "y": [None],
            "mode": "markers",
            "hoverinfo": "skip",
            "showlegend": False,
            "marker": {
                "color": [self.low],
                "cmin": self.low,
                "cmax": self.high,
                "colorscale": self.colorscale,
                "showscale": True,
                "colorbar": placed,
            },
            **look,
        }


def grid(levels: np.ndarray, count: int, gap: float = 0.03) -> list[np.ndarray]:
    """Per step the rectangles [n, 4] of its tiles, around whole numbers, with a gap between them. levels: int [rows,
    columns] below `count`.
    """
    half = 0.5 - gap
    found = []
    for level in range(count):
        row, column = np.nonzero(levels == level)
        found.append(np.stack([column - half, column + half, row - half, row + half], axis=1))
    return found


def ribbons(levels: np.ndarray, edges: Sequence[float], count: int) -> list[list[Rectangle]]:
    """Per step the stretches of it in every row. levels: int [rows, columns] below `count`; edges: the columns' borders
    [columns + 1].
    """
    found: list[list[Rectangle]] = [[] for _ in range(count)]
    for row, line in enumerate(levels):
        starts = [0, *(np.nonzero(np.diff(line))[0] + 1).tolist(), len(line)]
        for a, b in zip(starts, starts[1:]):
            found[line[a]].append((float(edges[a]), float(edges[b]), row - 0.5, row + 0.5))
    return found


def borders(at: Sequence[float], first: float | None = None, last: float | None = None) -> list[float]:
    """Half-way between neighbours; the outer ones half a step out, or as given."""
    at = np.asarray(at, dtype=float)
    step = np.diff(at) if len(at) > 1 else np.ones(1)
    return [
        at[0] - step[0] / 2 if first is None else first,
        *((at[1:] + at[:-1]) / 2).tolist(),
        at[-1] + step[-1] / 2 if last is None else last,
    ]
