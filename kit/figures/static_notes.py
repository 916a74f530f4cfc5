"""What stands around and upon the data of the static picture: shapes, annotations, title, legend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.transforms import Transform, blended_transform_factory

from kit.figures.static_text import HORIZONTAL, POINTS, VERTICAL, color, dash, font, lines, refuse, words
from kit.figures.static_traces import SYMBOLS, main_color, mode

if TYPE_CHECKING:
    from kit.figures.static import Sheet


def open_axes(sheet: Sheet) -> None:
    """Make the axes that only a shape or an annotation refers to."""
    for note in (*sheet.layout.get("shapes", ()), *sheet.layout.get("annotations", ())):
        _axes_of(sheet, note)


def _axes_of(sheet: Sheet, note: dict[str, Any]) -> Axes | None:
    x, y = (str(note.get(f"{letter}ref") or letter).split()[0] for letter in "xy")
    if x == "paper" and y == "paper":
        return None
    for pair, axes in sheet.pairs.items():
        if (x in pair or x == "paper") and (y in pair or y == "paper"):
            return axes
    x = x if x != "paper" else sheet.axis(y).get("anchor", "x")
    y = y if y != "paper" else sheet.axis(x).get("anchor", "y")
    return sheet.axes(x, y)


def _transform(sheet: Sheet, note: dict[str, Any], axes: Axes | None, prefix: str = "") -> Transform:
    parts = []
    for letter in "xy":
        ref = str(note.get(f"{prefix}{letter}ref") or letter)
        parts.append(
            sheet.paper()
            if ref == "paper" or axes is None
            else axes.transAxes
            if ref.endswith(" domain")
            else axes.transData
        )
    return blended_transform_factory(*parts)


# ---- shapes --------------------------------------------------------------------------------------


def shapes(sheet: Sheet) -> None:
    for shape in sheet.layout.get("shapes", ()):
        axes = _axes_of(sheet, shape)
        where = _transform(sheet, shape, axes)
        line, opacity = shape.get("line") or {}, shape.get("opacity", 1.0)
        stroke = {
            "linewidth": line.get("width", 2) * POINTS,
            "linestyle": dash(line.get("dash")),
            "transform": where,
            "zorder": 0.6 if shape.get("layer") == "below" else 3.5,
        }
        x0, x1, y0, y1 = (
            (sheet.numbers([shape[k]], str(shape.get(f"{k[0]}ref", k[0])))[0]) for k in ("x0", "x1", "y0", "y1")
        )
        ink = color(line.get("color", "#444"), opacity)
        if shape.get("type") == "line":
            artist: Any = Line2D([x0, x1], [y0, y1], color=ink, **stroke)
        elif shape.get("type") == "rect":
            artist = Rectangle(
                (x0, y0),
                x1 - x0,
                y1 - y0,
                facecolor=color(shape.get("fillcolor"), opacity),
                edgecolor=ink if line.get("width", 2) else "none",
                **stroke,
            )
        else:
            raise refuse(f"a shape of type {shape.get('type')!r}")
        if axes is None:
            sheet.picture.add_artist(artist)
        else:
            # added as an artist, not as data: a rule must not stretch the axes
            axes.add_artist(artist)
            artist.set_clip_on("paper" not in (shape.get("xref"), shape.get("yref")))


# ---- annotations ---------------------------------------------------------------------------------


def annotations(sheet: Sheet) -> None:
    for note in sheet.layout.get("annotations", ()):
        if note.get("visible", True) and (note.get("text") or note.get("showarrow", True)):
            _annotate(sheet, note)


def _annotate(sheet: Sheet, note: dict[str, Any]) -> None:
    axes = _axes_of(sheet, note)
    xy = tuple(_position(sheet, note, letter) for letter in "xy")
    owner = axes if axes is not None else _overlay(sheet)
    default = sheet.layout.get("font", {})
    dx, dy = note.get("xshift", 0) * POINTS, note.get("yshift", 0) * POINTS
    arrow = None
    if note.get("showarrow", True):
        head = {0: "-", 1: "->"}.get(note.get("arrowhead", 1), "-|>")
        arrow = {
            "arrowstyle": head,
            "color": color(note.get("arrowcolor", default.get("color", "#444"))),
            "shrinkA": 0,
            "shrinkB": note.get("standoff", 0),
            "linewidth": note.get("arrowwidth", 1.5) * POINTS,
            "mutation_scale": 9 * note.get("arrowsize", 1),
        }
    ha, va = _anchors(note)
    rows = lines(note.get("text") or "")
    blocks = [(note.get("text") or "", 0.0)]
    if len({bold for _, bold in rows}) > 1:  # matplotlib has one weight per text: one text per line then
        height = 1.3 * (note.get("font") or {}).get("size", default.get("size", 12)) * POINTS
        first = {"bottom": len(rows) - 1, "center": (len(rows) - 1) / 2, "top": 0}[va]
        blocks = [(f"<b>{line}</b>" if bold else line, (first - k) * height) for k, (line, bold) in enumerate(rows)]
    for text, up in blocks:
        _place(sheet, owner, note, text, xy, (dx, dy + up), (ha, va), arrow, axes)
        arrow = None


def _place(
    sheet: Sheet,
    owner: Axes,
    note: dict[str, Any],
    text: str,
    xy: tuple[float, ...],
    shift: tuple[float, float],
    anchors: tuple[str, str],
    arrow: dict[str, Any] | None,
    axes: Axes | None,
) -> None:
    where = _transform(sheet, note, axes)
    offset, coords = shift, "offset points"
    if arrow:
        if str(note.get("axref", "pixel")) == "pixel":
            offset = (shift[0] + note.get("ax", -10) * POINTS, shift[1] - note.get("ay", -30) * POINTS)
        else:
            offset, coords = (note["ax"], note["ay"]), where
    box = None
    if note.get("bgcolor") or note.get("bordercolor"):
        box = {
            "boxstyle": f"square,pad={note.get('borderpad', 1) / max(1, (note.get('font') or {}).get('size', 12)):.3f}",
            "facecolor": color(note.get("bgcolor")),
            "edgecolor": color(note.get("bordercolor")),
            "linewidth": note.get("borderwidth", 1) * POINTS,
        }
    owner.annotate(
        words(text),
        xy,
        xytext=offset,
        xycoords=where,
        textcoords=coords,
        ha=anchors[0],
        va=anchors[1],
        bbox=box,
        arrowprops=arrow,
        annotation_clip=False,
        zorder=5,
        rotation=-note.get("textangle", 0),
        rotation_mode="default",
        **font(note.get("font"), sheet.layout.get("font", {}), text),
    )


def _position(sheet: Sheet, note: dict[str, Any], letter: str) -> float:
    ref = str(note.get(f"{letter}ref") or letter)
    value = note.get(letter, 0.5)
    if ref == "paper" or ref.endswith(" domain"):
        return float(value)
    number = float(sheet.numbers([value], ref)[0])
    return (
        10**number if sheet.axis(ref).get("type") == "log" else number
    )  # plotly: annotations on logarithmic axes are in decades


def _anchors(note: dict[str, Any]) -> tuple[str, str]:
    result = []
    for letter, low, high, names in (("x", "left", "right", HORIZONTAL), ("y", "bottom", "top", VERTICAL)):
        anchor = note.get(f"{letter}anchor", "auto")
        if anchor == "auto":
            at, paper = (
                note.get(letter, 0.5),
                str(note.get(f"{letter}ref", "")) == "paper" and not note.get("showarrow", True),
            )
            anchor = "center" if not paper or 1 / 3 < at < 2 / 3 else low if at <= 1 / 3 else high
        result.append(names[anchor])
    return result[0], result[1]


def _overlay(sheet: Sheet) -> Axes:
    """Invisible axes over the whole picture, for notes that belong to no axes."""
    for axes in sheet.picture.axes:
        if axes.get_label() == "overlay":
            return axes
    axes = sheet.picture.add_axes((0, 0, 1, 1), label="overlay")
    axes.set_axis_off()
    return axes


# ---- title and legend ----------------------------------------------------------------------------


def title(sheet: Sheet) -> None:
    settings = sheet.layout.get("title") or {}
    if not settings.get("text"):
        return
    x, pad = settings.get("x", 0.05), settings.get("pad") or {}
    ha = HORIZONTAL.get(settings.get("xanchor", "auto"), "left" if x <= 1 / 3 else "right" if x >= 2 / 3 else "center")
    if isinstance(settings.get("y"), (int, float)):
        y = settings["y"] - (pad.get("t", 0) - pad.get("b", 0)) / sheet.height
        va = VERTICAL.get(
            settings.get("yanchor", "auto"), "top" if y >= 2 / 3 else "bottom" if y <= 1 / 3 else "center"
        )
    else:
        y, va = 1 - sheet.margins["t"] / 2 / sheet.height, "center"
    default = {**sheet.layout.get("font", {}), "size": 17}
    look = font(settings.get("font"), default, settings["text"])
    drawn = sheet.picture.text(x + pad.get("l", 0) / sheet.width, y, words(settings["text"]), ha=ha, va=va, **look)
    longer = drawn.get_window_extent(sheet.canvas.get_renderer()).width / (0.97 * sheet.width)
    drawn.set_fontsize(look["fontsize"] / max(longer, 1.0))  # a long one is smaller, not cut off


def legend(sheet: Sheet) -> None:
    entries = [
        (_handle(sheet, trace, k), words(trace["name"]))
        for k, trace in enumerate(sheet.traces)
        if trace.get("name")
        and trace.get("showlegend", True)
        and trace.get("type", "scatter") not in ("heatmap", "contour", "image")
    ]
    asked = any(trace.get("showlegend") for trace in sheet.traces)
    if not entries or not sheet.layout.get("showlegend", asked or len(sheet.traces) > 1):
        return
    settings = sheet.layout.get("legend") or {}
    sideways = settings.get("orientation") == "h"
    x, y = settings.get("x", 0 if sideways else 1.02), settings.get("y", -0.1 if sideways else 1)
    ha = settings.get("xanchor", "left")
    va = settings.get("yanchor", "auto")
    va = ("top" if y >= 2 / 3 or sideways else "bottom" if y <= 1 / 3 else "middle") if va == "auto" else va
    spot = (
        f"{ {'top': 'upper', 'middle': 'center', 'bottom': 'lower'}[va] } {HORIZONTAL[ha] if ha != 'auto' else 'left'}"
    )
    parts = [sheet.picture.transFigure if settings.get(f"{k}ref") == "container" else sheet.paper() for k in "xy"]
    text = font(settings.get("font"), sheet.layout.get("font", {}))
    for columns in range(len(entries) if sideways else 1, 0, -1):
        drawn = sheet.picture.legend(
            [h for h, _ in entries],
            [t for _, t in entries],
            ncols=columns,
            loc="center" if spot == "center center" else spot,
            bbox_to_anchor=(x, y),
            bbox_transform=blended_transform_factory(*parts),
            prop={"size": text["fontsize"]},
            labelcolor=text["color"],
            facecolor=color(settings.get("bgcolor", "white")),
            edgecolor="none",
            framealpha=None,
            handlelength=1.8,
            columnspacing=1.4,
            borderaxespad=0.2,
        )
        if columns == 1 or drawn.get_window_extent(sheet.canvas.get_renderer()).width <= sheet.width * 0.98:
            return
        drawn.remove()


def _handle(sheet: Sheet, trace: dict[str, Any], index: int) -> Any:
    main, opacity = main_color(sheet, trace, index), trace.get("opacity", 1.0)
    if trace.get("type") == "bar":
        return Patch(facecolor=color(main, opacity))
    line, marker, modes = trace.get("line") or {}, trace.get("marker") or {}, mode(trace)
    if trace.get("fill") == "toself":
        return Patch(facecolor=color(trace.get("fillcolor") or main, opacity))
    size = marker.get("size", 6)
    symbol = marker.get("symbol", "circle")
    hollow = str(symbol).endswith("-open")
    ink = marker.get("color") if isinstance(marker.get("color"), str) else main
    return Line2D(
        [],
        [],
        color=color(line.get("color") or main, opacity),
        linewidth=line.get("width", 2) * POINTS if "lines" in modes else 0,
        linestyle=dash(line.get("dash")) if "lines" in modes else "none",
        marker=SYMBOLS.get(str(symbol).removesuffix("-open"), "o") if "markers" in modes else None,
        markersize=(float(np.max(size)) if np.size(size) else 6) * POINTS,
        markerfacecolor="none" if hollow else color(ink, opacity),
        markeredgecolor=color(ink, opacity),
    )
