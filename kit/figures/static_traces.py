"""Traces of the static picture."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.image import imread
from matplotlib.ticker import FixedLocator, FuncFormatter

from kit.figures.static_text import POINTS, color, dash, font, number, refuse, words

if TYPE_CHECKING:
    from kit.figures.static import Sheet

SYMBOLS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "cross": "P",
    "x": "X",
    "triangle-up": "^",
    "triangle-down": "v",
    "star": "*",
    "triangle-left": "<",
    "triangle-right": ">",
    "line-ns": "|",
    "line-ew": "_",
    "pentagon": "p",
    "hexagon": "h",
}
COLORWAY = (
    "#1f77b4",
    "#ff7f0e",
    "#2ca02c",
    "#d62728",
    "#9467bd",
    "#8c564b",
    "#e377c2",
    "#7f7f7f",
    "#bcbd22",
    "#17becf",
)
PLACES = {
    "left": (-1, "right"),
    "right": (1, "left"),
    "center": (0, "center"),
    "top": (1, "bottom"),
    "bottom": (-1, "top"),
    "middle": (0, "center"),
}


def draw(sheet: Sheet, trace: dict[str, Any], index: int) -> None:
    kinds = {
        "scatter": _scatter,
        "scattergl": _scatter,
        "bar": _bar,
        "heatmap": _heatmap,
        "contour": _contour,
        "image": _image,
    }
    kind = trace.get("type", "scatter")
    if kind not in kinds:
        raise refuse(f"a trace of type {kind!r}")
    kinds[kind](sheet, trace, sheet.axes(*_pair(trace)), main_color(sheet, trace, index))


def main_color(sheet: Sheet, trace: dict[str, Any], index: int) -> Any:
    way = sheet.layout.get("colorway") or COLORWAY
    given = (trace.get("line") or {}).get("color") or (trace.get("marker") or {}).get("color")
    return given if isinstance(given, str) else way[index % len(way)]


def _pair(trace: dict[str, Any]) -> tuple[str, str]:
    return trace.get("xaxis", "x"), trace.get("yaxis", "y")


def mode(trace: dict[str, Any]) -> str:
    return trace.get("mode") or ("lines+markers" if len(_either(trace)) < 20 else "lines")


def _either(trace: dict[str, Any]) -> list[Any]:
    return trace.get("y") if trace.get("y") is not None else trace.get("x") or []


# ---- scatter -------------------------------------------------------------------------------------


def _scatter(sheet: Sheet, trace: dict[str, Any], axes: Axes, main: Any) -> None:
    _scatter_scale(sheet, trace.get("marker") or {})
    x = sheet.numbers(trace["x"] if trace.get("x") is not None else range(len(_either(trace))), trace.get("xaxis", "x"))
    y = sheet.numbers(trace["y"] if trace.get("y") is not None else range(len(x)), trace.get("yaxis", "y"))
    if not len(x) or not np.isfinite(np.stack([x, y])).all(axis=0).any():
        return
    line, opacity, modes = trace.get("line") or {}, trace.get("opacity", 1.0), mode(trace)
    clip = trace.get("cliponaxis", True)
    fill = trace.get("fill", "none")
    if fill != "none":
        _fill(
            axes,
            x,
            y,
            fill,
            sheet.filled.get(_pair(trace)),
            color(trace.get("fillcolor") or main, 1.0 if trace.get("fillcolor") else 0.4),
        )
    if "lines" in modes:
        step = {"hv": "steps-post", "vh": "steps-pre", "hvh": "steps-mid"}.get(line.get("shape"), "default")
        axes.plot(
            x,
            y,
            color=color(line.get("color") or main, opacity),
            linewidth=line.get("width", 2) * POINTS,
            drawstyle=step,
            linestyle=dash(line.get("dash")),
            solid_capstyle="round",
            solid_joinstyle="round",
            clip_on=clip,
            zorder=2,
        )
    if "markers" in modes:
        _markers(axes, x, y, trace.get("marker") or {}, main, opacity, clip)
    _errors(trace, axes, x, y, main)
    if "text" in modes and trace.get("text") is not None:
        _texts(sheet, trace, axes, x, y)
    sheet.filled[_pair(trace)] = (x, y)


def _scatter_scale(sheet: Sheet, marker: dict[str, Any]) -> None:
    """The colour bar of markers that ask for one."""
    if marker.get("showscale"):
        _colorbar(
            sheet,
            ScalarMappable(_norm(np.array(marker["color"], float), marker, "c"), _scale(marker.get("colorscale"))),
            marker,
        )


def _fill(
    axes: Axes, x: np.ndarray, y: np.ndarray, fill: str, before: tuple[np.ndarray, np.ndarray] | None, shade: Any
) -> None:
    if fill == "toself":
        gaps = np.nonzero(~np.isfinite(x + y))[0]
        parts = [np.stack([a, b], axis=1) for a, b in zip(np.split(x, gaps), np.split(y, gaps))]
        parts = [part[np.isfinite(part).all(axis=1)] for part in parts]
        # as high as lines: what is drawn later covers what is drawn before
        axes.add_collection(
            PolyCollection([part for part in parts if len(part) > 2], facecolors=shade, edgecolors="none", zorder=2)
        )
        return
    under = np.interp(x, *before) if fill == "tonexty" and before is not None else 0.0
    axes.fill_between(x, under, y, facecolor=shade, edgecolor="none", zorder=1)


def _markers(
    axes: Axes, x: np.ndarray, y: np.ndarray, marker: dict[str, Any], main: Any, opacity: float, clip: bool
) -> None:
    seen = np.isfinite(x) & np.isfinite(y)
    colors, sizes = marker.get("color"), marker.get("size", 6)
    symbol = marker.get("symbol", "circle")
    symbol = symbol if isinstance(symbol, str) else "circle"
    opacity = opacity * (marker.get("opacity") if isinstance(marker.get("opacity"), (int, float)) else 1.0)
    if isinstance(colors, list) and colors and not isinstance(colors[0], str):
        mapped = ScalarMappable(_norm(np.array(colors, float), marker, "c"), _scale(marker.get("colorscale")))
        ink = mapped.to_rgba(np.array(colors, float), alpha=opacity)[seen]
    elif isinstance(colors, list):
        ink = np.array([color(c, opacity) for c in colors])[seen]
    else:
        ink = [color(colors or main, opacity)]
    area = (np.broadcast_to(np.asarray(sizes, float), x.shape)[seen] * POINTS) ** 2
    open_, outline = symbol.endswith("-open"), marker.get("line") or {}
    style = SYMBOLS.get(symbol.removesuffix("-open").removesuffix("-dot"), "o")
    area = area * (1.6 if style == "*" else 0.8 if style in "D" else 1.0)
    edge = ink if open_ or style in "|_" else [color(outline.get("color"), opacity)] if outline.get("width") else "none"
    axes.scatter(
        x[seen],
        y[seen],
        s=area,
        marker=style,
        facecolors="none" if open_ else ink,
        edgecolors=edge,
        linewidths=max(outline.get("width", 0) * POINTS, 1.1 if open_ or style in "|_" else 0),
        clip_on=clip,
        zorder=3,
    )


def _errors(trace: dict[str, Any], axes: Axes, x: np.ndarray, y: np.ndarray, main: Any) -> None:
    for letter in "xy":
        bars = trace.get(f"error_{letter}") or {}
        if bars.get("visible", bool(bars)) and bars.get("array") is not None:
            up = np.nan_to_num(np.array([v or 0 for v in bars["array"]], float))
            less = bars.get("arrayminus")
            down = up if less is None else np.nan_to_num(np.array([v or 0 for v in less], float))
            axes.errorbar(
                x,
                y,
                **{f"{letter}err": np.stack([down, up])},
                fmt="none",
                ecolor=color(bars.get("color") or main),
                elinewidth=bars.get("thickness", 2) * POINTS,
                capthick=bars.get("thickness", 2) * POINTS,
                capsize=bars.get("width", 4) * POINTS * 0.7,
                zorder=2.5,
            )


def _texts(sheet: Sheet, trace: dict[str, Any], axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    texts = trace["text"] if isinstance(trace["text"], list) else [trace["text"]] * len(x)
    places = trace.get("textposition", "middle center")
    gap = (trace.get("marker") or {}).get("size", 6) if "markers" in mode(trace) else 0
    gap = (gap if isinstance(gap, (int, float)) else 6) * 0.5 + 3
    for k, text in enumerate(texts):
        if text and np.isfinite(x[k]) and np.isfinite(y[k]):
            vertical, horizontal = (places[k] if isinstance(places, list) else places).split()
            (up, va), (right, ha) = PLACES[vertical], PLACES[horizontal]
            axes.annotate(
                words(text),
                (x[k], y[k]),
                xytext=(right * gap * POINTS, up * gap * POINTS),
                textcoords="offset points",
                ha=ha,
                va=va,
                zorder=4,
                **font(trace.get("textfont"), sheet.layout.get("font", {}), text),
            )


# ---- bars ----------------------------------------------------------------------------------------


def _bar(sheet: Sheet, trace: dict[str, Any], axes: Axes, main: Any) -> None:
    sideways = trace.get("orientation") == "h"
    along, up = ("y", "x") if sideways else ("x", "y")
    at = sheet.numbers(
        trace[along] if trace.get(along) is not None else range(len(trace[up])), trace.get(f"{along}axis", along)
    )
    value = sheet.numbers(trace[up], trace.get(f"{up}axis", up))
    unit = float(np.diff(np.unique(at)).min()) if len(np.unique(at)) > 1 else 1.0
    peers = [t for t in sheet.traces if t.get("type") == "bar" and _pair(t) == _pair(trace)]
    how = sheet.layout.get("barmode", "group")
    share = len(peers) if how == "group" else 1
    place = next(k for k, t in enumerate(peers) if t is trace) if how == "group" else 0
    width = (
        trace["width"]
        if isinstance(trace.get("width"), (int, float))
        else 0.96 * unit * (1 - sheet.layout.get("bargap", 0.2)) / share
    )
    base = np.broadcast_to(np.asarray(trace.get("base") or 0.0, dtype=float), value.shape)
    below = _stacked(sheet.stacked.setdefault(_pair(trace), {}), at, value) if how in ("stack", "relative") else base
    marker = trace.get("marker") or {}
    line, inks, opacity = marker.get("line") or {}, marker.get("color") or main, trace.get("opacity", 1.0)
    inks = [color(c, opacity) for c in inks] if isinstance(inks, list) else color(inks, opacity)
    edge = {"edgecolor": color(line.get("color")), "linewidth": line["width"] * POINTS} if line.get("width") else {}
    centre = at + (place - (share - 1) / 2) * width
    sizes = {"height": width, "left": below} if sideways else {"width": width, "bottom": below}
    (axes.barh if sideways else axes.bar)(centre, value, color=inks, zorder=2, **sizes, **edge)
    _errors(trace, axes, *((value + below, centre) if sideways else (centre, value + below)), "#444")


def _stacked(sums: dict[float, float], at: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Where these bars begin; `sums` then holds where they end."""
    below = np.array([sums.get(a, 0.0) for a in at])
    sums.update({a: b + v for a, b, v in zip(at, below, np.nan_to_num(value))})
    return below


# ---- maps ----------------------------------------------------------------------------------------


def _scale(given: Any) -> LinearSegmentedColormap:
    from plotly.colors import get_colorscale

    given = given or "Viridis"
    steps = get_colorscale(given) if isinstance(given, str) else given
    return LinearSegmentedColormap.from_list("plotly", [(float(at), color(c)) for at, c in steps])


def _norm(values: np.ndarray, settings: dict[str, Any], letter: str = "z") -> Normalize:
    low = settings.get(f"{letter}min")
    high = settings.get(f"{letter}max")
    finite = values[np.isfinite(values)]
    low = float(finite.min()) if low is None and len(finite) else low or 0.0
    high = float(finite.max()) if high is None and len(finite) else 1.0 if high is None else high
    middle = settings.get(f"{letter}mid")
    if middle is not None:
        reach = max(high - middle, middle - low)
        low, high = middle - reach, middle + reach
    return Normalize(low, high if high > low else low + 1e-9)


def _grid(sheet: Sheet, trace: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
    z = np.array([[np.nan if v is None else v for v in row] for row in trace["z"]], dtype=float)
    x, y = (
        sheet.numbers(trace[k] if trace.get(k) is not None else range(n), trace.get(f"{k}axis", k))
        for k, n in zip("xy", z.T.shape)
    )
    shared = sheet.layout.get(trace["coloraxis"], {}) if trace.get("coloraxis") else {}
    settings = {**trace, **{{"cmin": "zmin", "cmax": "zmax", "cmid": "zmid"}.get(k, k): v for k, v in shared.items()}}
    settings.setdefault("colorscale", (sheet.layout.get("colorscale") or {}).get("sequential"))
    return x, y, z, settings


def _heatmap(sheet: Sheet, trace: dict[str, Any], axes: Axes, main: Any) -> None:
    x, y, z, settings = _grid(sheet, trace)
    gap = max(trace.get("xgap", 0), trace.get("ygap", 0)) * POINTS
    mesh = axes.pcolormesh(
        _edges(x, z.shape[1]),
        _edges(y, z.shape[0]),
        z,
        cmap=_scale(settings["colorscale"]),
        norm=_norm(z, settings),
        edgecolors=color(sheet.layout.get("plot_bgcolor", "white")) if gap else "none",
        linewidth=gap,
        zorder=1,
    )
    axes.set_xmargin(0)
    axes.set_ymargin(0)
    if trace.get("texttemplate") == "%{text}" and trace.get("text"):
        for i, j in np.ndindex(z.shape):
            look = font(trace.get("textfont"), sheet.layout.get("font", {}))
            axes.text(x[j], y[i], words(trace["text"][i][j]), ha="center", va="center", zorder=4, **look)
    _colorbar(sheet, mesh, settings)


def _contour(sheet: Sheet, trace: dict[str, Any], axes: Axes, main: Any) -> None:
    x, y, z, settings = _grid(sheet, trace)
    norm, how = _norm(z, settings), trace.get("contours") or {}
    if how.get("size"):
        levels = np.arange(how.get("start", norm.vmin), how.get("end", norm.vmax) + how["size"] / 2, how["size"])
    else:
        levels = np.linspace(norm.vmin, norm.vmax, min(trace.get("ncontours", 15), 40) + 1)
    shown = np.clip(z, levels[0], levels[-1])
    if how.get("coloring", "fill") in ("fill", "heatmap"):
        _colorbar(
            sheet,
            axes.contourf(x, y, shown, levels=levels, cmap=_scale(settings["colorscale"]), norm=norm, zorder=1),
            settings,
        )
    if how.get("showlines", True):
        axes.contour(
            x,
            y,
            shown,
            levels=levels,
            colors=[color((trace.get("line") or {}).get("color", "#444"))],
            zorder=1.5,
            linewidths=(trace.get("line") or {}).get("width", 0.5) * POINTS,
        )


def _image(sheet: Sheet, trace: dict[str, Any], axes: Axes, main: Any) -> None:
    head, _, data = str(trace.get("source") or "").partition(";base64,")
    pixels = (
        imread(io.BytesIO(base64.b64decode(data)), format=head.rpartition("/")[2])
        if data
        else np.asarray(trace["z"], dtype=np.uint8)
    )
    axes.imshow(pixels, interpolation="nearest", aspect="equal", zorder=1)


def _edges(centres: np.ndarray, n: int) -> np.ndarray:
    if len(centres) == n + 1:
        return centres
    if n == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def _colorbar(sheet: Sheet, mappable: Any, settings: dict[str, Any]) -> None:
    if settings.get("showscale") is False:
        return
    bar = settings.get("colorbar") or {}
    left, bottom, wide, high = sheet.area
    length, anchor = bar.get("len", 1.0), bar.get("yanchor", "middle")
    low = bar.get("y", 0.5) - length * {"bottom": 0.0, "middle": 0.5, "top": 1.0}[anchor]
    at = left + bar.get("x", 1.02) * wide + bar.get("xpad", 10) / sheet.width
    rect = (at, bottom + max(low, 0) * high, bar.get("thickness", 20) / sheet.width, length * high)
    drawn = sheet.picture.colorbar(mappable, cax=sheet.picture.add_axes(rect, label="colorbar"))
    drawn.outline.set_visible(False)
    default = sheet.layout.get("font", {})
    text = font(bar.get("tickfont"), default)
    drawn.ax.tick_params(labelsize=text["fontsize"] * 0.95, labelcolor=text["color"], length=3)
    drawn.ax.minorticks_off()
    if bar.get("tickvals") is not None:
        texts = bar.get("ticktext") or [number(v, bar.get("tickformat")) for v in bar["tickvals"]]
        drawn.ax.yaxis.set_major_locator(FixedLocator(bar["tickvals"]))
        drawn.ax.yaxis.set_major_formatter(
            FuncFormatter(lambda _, k: words(texts[k]) if k is not None and k < len(texts) else "")
        )
    else:
        suffix = bar.get("ticksuffix", "")
        drawn.ax.yaxis.set_major_formatter(
            FuncFormatter(lambda v, _: number(round(v, 12), bar.get("tickformat")) + suffix)
        )
    title = bar.get("title") or {}
    if title.get("text"):
        if title.get("side") == "right":
            drawn.set_label(words(title["text"]), **font(title.get("font"), default, title["text"]))
        else:
            drawn.ax.set_title(words(title["text"]), loc="left", **font(title.get("font"), default, title["text"]))
