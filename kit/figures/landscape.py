"""Loss landscapes of several runs side by side (DHA Fig. 3): contours, surfaces and lines, on the same levels, heights
and axes.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from kit.errors import KitError
from kit.figures import static_landscape
from kit.figures.display import MIME
from kit.figures.style import GREY, INK, PALETTE, TEMPLATE, legend_below_title, method_look
from kit.studies.landscape import Landscape

COLORS = "Viridis"  # even steps for any kind of colour vision, and in grey
UNIT = "relative to the filter norm"
LOSS = "test loss [nats]"
CAMERA = {"eye": {"x": 1.5, "y": -1.75, "z": 1.0}, "center": {"x": 0, "y": 0, "z": -0.08}}
MOST = 6  # panels of one figure
WIDTH = 1200  # pixels for which panels are laid out


# ---- levels --------------------------------------------------------------------------------------


def levels(landscapes: Sequence[Landscape], top: float | None = None) -> list[float]:
    """Round losses (1, 2, 5, 10, …) at which all planes have their lines: from above the lowest loss up to `top`.

    top: None takes about ten times the loss of guessing, ln(classes): what lies above says that the network is broken,
    not how much.
    """
    lowest = min(float(np.nanmin(item.plane.values)) for item in landscapes)
    guess = math.log(max(2, len(landscapes[0].run.classes)))
    round_numbers = [m * 10.0**e for e in range(-12, 13) for m in (1, 2, 5)]
    top = top if top is not None else min((n for n in round_numbers if n >= 8 * guess), default=10 * guess)
    highest = max(float(np.nanmax(item.plane.values)) for item in landscapes)
    chosen = [float(f"{n:.1g}") for n in round_numbers if lowest < n <= min(top, highest)]
    if len(chosen) < 3:  # a plane that hardly rises: even steps between its ends
        end = max(min(top, highest), lowest * 1.001)
        chosen = [float(v) for v in np.linspace(lowest, end, 8)[1:-1]]
    return chosen[-12:]


def heights(values: np.ndarray, marks: Sequence[float]) -> np.ndarray:
    """Losses on a scale that is k at marks[k] and logarithmic in between; −1 … len(marks), clipped just below the
    ends.
    """
    # one step more on either side, so that what lies beyond the first and the last mark has a colour of its own
    first, last = (math.log(marks[1] / marks[0]), math.log(marks[-1] / marks[-2])) if len(marks) > 1 else (1.0, 1.0)
    logs = np.log(np.asarray(marks, float))
    places = np.concatenate([[logs[0] - first], logs, [logs[-1] + last]])
    scaled = np.interp(
        np.log(np.maximum(np.nan_to_num(values, nan=np.inf), 1e-300)), places, np.arange(-1, len(marks) + 1)
    )
    return np.clip(scaled, -0.999, len(marks) - 0.001)


def _text(loss: float) -> str:
    return f"{loss:.3g}" if loss < 1e4 else f"{loss:.0e}".replace("e+0", "e")


def _colorbar(marks: Sequence[float]) -> dict:
    return {
        "title": {"text": LOSS.replace(" [", "<br>["), "side": "top", "font": {"size": 12}},
        "tickvals": list(range(len(marks))),
        "ticktext": [_text(m) for m in marks],
        "thickness": 16,
        "outlinewidth": 0,
        "x": 1.0,
        "len": 0.9,
    }


# ---- panels --------------------------------------------------------------------------------------


def _check(landscapes: Sequence[Landscape]) -> list[Landscape]:
    shown = list(landscapes)
    if not 1 <= len(shown) <= MOST:
        raise KitError(
            f"{len(shown)} landscapes: one figure shows 1 to {MOST} side by side; landscape.one_each(…) takes one run per method"
        )
    for item in shown:
        if item.plane.values.ndim != 2:
            raise KitError(
                f"{item.label}: its metric gives arrays of shape {list(item.plane.values.shape[2:])}; a figure shows one number per point"
            )
    return shown


def _columns(n: int) -> int:
    return min(n, 2 if n in (2, 4) else 3)


class _Layout:
    """Places of n panels of the same size in pixels, row by row from the top, as plotly's domains; `height` is that of
    the figure.
    """

    def __init__(self, n: int, size: tuple[int, int], gap: tuple[int, int], margin: dict[str, int], width: int = WIDTH):
        columns = _columns(n)
        (wide, high), (across, down) = size, gap
        rows, paper = -(-n // columns), width - margin["l"] - margin["r"]
        plot = rows * high + (rows - 1) * down
        self.margin, self.height, self.domains = margin, plot + margin["t"] + margin["b"], []
        for row, column in (divmod(k, columns) for k in range(n)):
            left, top = column * (wide + across), row * (high + down)
            self.domains.append(
                ([left / paper, min((left + wide) / paper, 1.0)], [max(1 - (top + high) / plot, 0.0), 1 - top / plot])
            )
        self.right = max(x[1] for x, _ in self.domains)


def _heading(figure: go.Figure, item: Landscape, x: list[float], y: list[float]) -> None:
    text = f"<b>{item.label}</b><br>test loss {item.plane.centre:.3g}, accuracy {item.run.metrics['test_accuracy']:.2%}"
    figure.add_annotation(
        text=text,
        x=sum(x) / 2,
        y=y[1],
        xref="paper",
        yref="paper",
        xanchor="center",
        yanchor="bottom",
        yshift=4,
        showarrow=False,
        align="center",
        font={"size": 13},
    )


def _title(shown: Sequence[Landscape], what: str) -> str:
    dataset = shown[0].run.config.dataset.rstrip("/").rsplit("/", 1)[-1]
    return f"{dataset} · {what} ({shown[0].images:,} test images)"


# ---- contours ------------------------------------------------------------------------------------


def contours(landscapes: Sequence[Landscape], top: float | None = None, width: int = WIDTH) -> go.Figure:
    """The plane of each run as filled contours, with the same levels and colours in all panels; losses above the last
    level are one colour.

    top: the last level, by default about ten times the loss of guessing. width: of the picture, in pixels, at which the
    panels are square.
    """
    shown = _check(landscapes)
    marks = levels(shown, top)
    columns = _columns(len(shown))
    side = min(430 if len(shown) < 3 else 390, (width - 175 - 74 * (columns - 1)) // columns)
    layout = _Layout(len(shown), (side, side), (74, 130), {"l": 75, "r": 100, "t": 105, "b": 65}, width)
    figure = go.Figure(
        layout={"template": TEMPLATE, "height": layout.height, "margin": layout.margin, "showlegend": False}
    )
    for k, (item, (x, y)) in enumerate(zip(shown, layout.domains)):
        bar = {**_colorbar(marks), "x": layout.right} if k == 0 else None
        _contour_panel(figure, item, marks, "" if k == 0 else str(k + 1), (x, y), bar)
        _heading(figure, item, x, y)
    figure.update_layout(title_text=_title(shown, "test loss around the trained model"))
    return figure


def _contour_panel(
    figure: go.Figure,
    item: Landscape,
    marks: list[float],
    axis: str,
    place: tuple[list[float], list[float]],
    bar: dict | None,
) -> None:
    (x, y), at, z = place, item.plane.coordinates, item.plane.values.T  # x along δ, y along η
    where = {"xaxis": f"x{axis}", "yaxis": f"y{axis}"}
    figure.add_trace(
        go.Contour(
            x=at.tolist(),
            y=at.tolist(),
            z=heights(z, marks).tolist(),
            customdata=z.tolist(),
            zmin=-1,
            zmax=len(marks),
            colorscale=COLORS,
            contours={"start": -1, "end": len(marks), "size": 1},
            line={"color": "rgba(255,255,255,0.75)", "width": 1},
            showscale=bar is not None,
            colorbar=bar,
            hovertemplate="a %{x:.3g}, b %{y:.3g}<br>loss %{customdata:.4g}<extra></extra>",
            **where,
        )
    )
    cross = {"symbol": "cross", "size": 9, "color": "white", "line": {"color": INK, "width": 1}}
    figure.add_trace(
        go.Scatter(
            x=[0],
            y=[0],
            mode="markers",
            marker=cross,
            hovertemplate=f"trained model<br>loss {item.plane.centre:.4g}<extra></extra>",
            **where,
        )
    )
    reach = [float(at[0]), float(at[-1])]
    shared = {"range": reach, "showgrid": False, "constrain": "domain"}
    figure.update_layout(
        {
            f"xaxis{axis}": {**shared, "domain": x, "anchor": f"y{axis}", "title": {"text": f"a · δ, {UNIT}"}},
            f"yaxis{axis}": {
                **shared,
                "domain": y,
                "anchor": f"x{axis}",
                "scaleanchor": f"x{axis}",
                "title": {"text": f"b · η, {UNIT}" if x[0] == 0 else "b · η"},
            },
        }
    )
    for (px, py), loss in _label_places(at, heights(z, marks), marks):
        figure.add_annotation(
            x=px,
            y=py,
            xref=f"x{axis}",
            yref=f"y{axis}",
            text=_text(loss),
            showarrow=False,
            borderpad=0,
            bgcolor="rgba(255,255,255,0.8)",
            font={"size": 10, "color": INK},
        )


def _label_places(at: np.ndarray, z: np.ndarray, marks: Sequence[float]) -> list[tuple[tuple[float, float], float]]:
    """Where each level's first line is met on a ray from the centre: levels that follow each other on rays far apart,
    so that labels do too.
    """
    found = []
    for k, loss in enumerate(marks):
        angle = math.radians(40 + 90 * k + 12 * (k // 4))
        for turn in range(12):  # another ray where this one meets no line within the panel
            direction = np.array([math.cos(angle + turn * 0.5), math.sin(angle + turn * 0.5)])
            t = np.linspace(0, float(at[-1]) * 0.94 / np.abs(direction).max(), 400)
            crossed = np.flatnonzero(_bilinear(at, z, t * direction[0], t * direction[1]) >= k)
            if len(crossed) and t[crossed[0]] < 0.09 * float(at[-1]):
                break  # it would hide the trained model
            if len(crossed):
                found.append(((float(t[crossed[0]] * direction[0]), float(t[crossed[0]] * direction[1])), loss))
                break
    return found


def _bilinear(at: np.ndarray, z: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """z [y, x] between its grid points."""
    fx, fy = (np.interp(v, at, np.arange(len(at))) for v in (x, y))
    i, j = np.minimum(fy.astype(int), len(at) - 2), np.minimum(fx.astype(int), len(at) - 2)
    v, u = fy - i, fx - j
    return (1 - v) * ((1 - u) * z[i, j] + u * z[i, j + 1]) + v * ((1 - u) * z[i + 1, j] + u * z[i + 1, j + 1])


# ---- surfaces ------------------------------------------------------------------------------------


def surfaces(landscapes: Sequence[Landscape], top: float | None = None) -> go.Figure:
    """The plane of each run as a surface over (a, b): the same heights, colours and camera in all; cut off a step above
    the last level.

    `show_surfaces` displays it with its static twin, `kit.figures.static_landscape.png` writes that.
    """
    shown = _check(landscapes)
    marks = levels(shown, top)
    layout = _Layout(
        len(shown),
        (510, 430) if len(shown) in (1, 2, 4) else (335, 340),
        (20, 60),
        {"l": 20, "r": 130, "t": 105, "b": 10},
    )
    figure = go.Figure(layout={"template": TEMPLATE, "height": layout.height, "margin": layout.margin})
    shown_marks = list(range(len(marks) - 1, -1, -2))[::-1]
    plain = {
        "backgroundcolor": "white",
        "gridcolor": "#DDDDDD",
        "showspikes": False,
        "zeroline": False,
        "tickfont": {"size": 11, "color": INK},
    }
    for k, (item, (x, y)) in enumerate(zip(shown, layout.domains)):
        at, z, scene = (
            item.plane.coordinates.tolist(),
            heights(item.plane.values.T, marks),
            f"scene{k + 1}" if k else "scene",
        )
        figure.add_trace(
            go.Surface(
                x=at,
                y=at,
                z=z.tolist(),
                customdata=item.plane.values.T.tolist(),
                cmin=-1,
                cmax=len(marks),
                colorscale=COLORS,
                showscale=k == 0,
                colorbar={**_colorbar(marks), "x": layout.right + 0.025, "len": 0.75},
                scene=scene,
                lighting={"ambient": 0.85, "diffuse": 0.3, "specular": 0.02},
                contours={
                    "z": {"show": True, "start": 0, "end": len(marks) - 1, "size": 1, "color": "white", "width": 1}
                },
                hovertemplate="a %{x:.3g}, b %{y:.3g}<br>loss %{customdata:.4g}<extra></extra>",
            )
        )
        figure.update_layout(
            {
                scene: {
                    "domain": {"x": x, "y": y},
                    "camera": CAMERA,
                    "aspectmode": "manual",
                    "aspectratio": {"x": 1, "y": 1, "z": 0.75},
                    "xaxis": {**plain, "title": {"text": "a · δ", "font": {"size": 12}}, "nticks": 5},
                    "yaxis": {**plain, "title": {"text": "b · η", "font": {"size": 12}}, "nticks": 5},
                    # no title: plotly puts it outside the scene; figure title, colour bar and the highest tick say what
                    # it is
                    "zaxis": {
                        **plain,
                        "title": {"text": ""},
                        "range": [-1, len(marks)],
                        "tickvals": shown_marks,
                        "ticktext": [_text(marks[k]) + (" nats" if k == shown_marks[-1] else "") for k in shown_marks],
                    },
                }
            }
        )
        _heading(figure, item, x, y)
    figure.update_layout(title_text=f"{_title(shown, 'test loss [nats] around the trained model')}; a, b {UNIT}")
    return figure


def show_surfaces(figure: go.Figure, width: int = 1000) -> None:
    """As `kit.figures.show`, for surfaces: plotly's face and the PNG in one output."""
    from IPython.display import publish_display_data

    picture = base64.b64encode(static_landscape.png(figure, width=width)).decode()
    publish_display_data(
        {
            MIME: {**json.loads(figure.to_json()), "config": {"displaylogo": False, "responsive": False}},
            "image/png": picture,
            "text/plain": f"<{figure.layout.title.text}>",
        }
    )


# ---- lines ---------------------------------------------------------------------------------------


def lines(landscapes: Sequence[Landscape], top: float | None = None) -> go.Figure:
    """Loss along random directions: the mean over each run's directions, and the 95% interval of that mean as a
    band.
    """
    shown = _check(landscapes)
    marks = levels(shown, top)
    figure = go.Figure(layout={"template": TEMPLATE, "height": 560, "margin": {"t": 115}})
    looks = _looks(shown)
    least = min(item.lines.centre for item in shown)
    for item, (color, _) in zip(shown, looks):
        _, low, high = item.lines.band()
        if np.isfinite(low).all():  # one direction has no interval
            at = item.lines.coordinates
            edge = {
                "mode": "lines",
                "line": {"width": 1, "color": _faint(color, 0.45)},
                "showlegend": False,
                "hoverinfo": "skip",
                "legendgroup": item.label,
            }
            figure.add_trace(go.Scatter(x=at.tolist(), y=np.maximum(low, least / 2).tolist(), **edge))
            figure.add_trace(
                go.Scatter(x=at.tolist(), y=high.tolist(), fill="tonexty", fillcolor=_faint(color, 0.15), **edge)
            )
    for item, (color, dash) in zip(shown, looks):
        figure.add_trace(
            go.Scatter(
                x=item.lines.coordinates.tolist(),
                y=item.lines.band()[0].tolist(),
                mode="lines",
                legendgroup=item.label,
                name=f"{item.label} (n = {item.lines.directions} directions)",
                line={"color": color, "dash": dash, "width": 2.5},
                hovertemplate="t %{x:.3g}: loss %{y:.4g}<extra>" + item.label + "</extra>",
            )
        )
    guess = math.log(max(2, len(shown[0].run.classes)))
    if guess < marks[-1]:
        figure.add_shape(
            type="line",
            x0=0,
            x1=1,
            xref="x domain",
            y0=guess,
            y1=guess,
            line={"color": GREY, "width": 1, "dash": "dot"},
        )
        figure.add_annotation(
            x=0.005,
            xref="x domain",
            xanchor="left",
            y=math.log10(guess),
            yanchor="bottom",
            showarrow=False,
            text="guessing: ln(classes)",
            font={"size": 11, "color": GREY},
        )
    figure.update_xaxes(title_text=f"t · d, {UNIT}", range=_seen(shown, marks[-1]))
    figure.update_yaxes(
        title_text=f"{LOSS}: mean and 95% interval",
        type="log",
        range=[math.log10(least / 1.5), math.log10(marks[-1])],
        tickvals=marks,
        ticktext=[_text(m) for m in marks],
    )
    figure.update_layout(title_text=_title(shown, "test loss along random directions"), legend=legend_below_title(560))
    return figure


def _seen(shown: Sequence[Landscape], top: float) -> list[float]:
    """The distances at which some run's mean is within the picture, and one step more."""
    reach = 0.0
    for item in shown:
        at = item.lines.coordinates
        inside = np.flatnonzero(item.lines.band()[0] <= top)
        reach = max(reach, *(abs(float(at[min(max(k, 0), len(at) - 1)])) for k in (inside.min() - 1, inside.max() + 1)))
    return [-reach, reach]


def _looks(shown: Sequence[Landscape]) -> list[tuple[str, str]]:
    """The methods' own colours; runs of one method by their dash, and beyond that by colours of their own."""
    looks = [method_look(item.run.config.method) for item in shown]
    dashes, spare = ("solid", "dash", "dot", "dashdot"), [c for name, c in PALETTE.items() if name != "yellow"]
    seen: dict[str, int] = {}
    result = []
    for k, (color, dash) in enumerate(looks):
        nth = seen[color] = seen.get(color, -1) + 1
        result.append((color, dash if nth == 0 else dashes[nth % 4]) if nth < 4 else (spare[k % len(spare)], "dot"))
    return result


def _faint(color: str, opacity: float) -> str:
    r, g, b = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r}, {g}, {b}, {opacity})"
