"""Axes of the static picture: domains, ranges, ticks, grid and titles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, MultipleLocator, NullLocator

from kit.figures.static_text import POINTS, color, font, number, words

if TYPE_CHECKING:
    from kit.figures.static import Sheet


def collect_categories(sheet: Sheet) -> None:
    """Axes whose data are names: each name's place, in order of appearance."""
    for trace in sheet.traces:
        for letter in "xy":
            name = trace.get(f"{letter}axis", letter)
            values = trace.get(letter)
            if values is None or not (
                sheet.axis(name).get("type") == "category" or any(isinstance(v, str) for v in values)
            ):
                continue
            places = sheet.categories.setdefault(name, {})
            for value in values:
                if value is not None:
                    places.setdefault(str(value), len(places))


def domain(sheet: Sheet, name: str) -> tuple[float, float]:
    settings = sheet.axis(name)
    if "domain" not in settings and "overlaying" in settings:
        settings = sheet.axis(settings["overlaying"])
    low, high = settings.get("domain", (0.0, 1.0))
    return float(low), float(high)


def finish(sheet: Sheet) -> None:
    """Ranges first (axes that match share theirs), then what is written along each axis."""
    for letter in "xy":
        names = sorted({pair["xy".index(letter)] for pair in sheet.pairs})
        groups: dict[str, list[str]] = {}
        for name in names:
            leader = sheet.axis(name).get("matches", name)
            groups.setdefault(leader, []).append(name)
        for members in groups.values():
            low, high = _range(sheet, letter, members)
            for name in members:
                for axes in _on(sheet, name):
                    (axes.set_xlim if letter == "x" else axes.set_ylim)(low, high)
    for (x, y), axes in sheet.pairs.items():
        _dress(sheet, axes, x, y)


def _on(sheet: Sheet, name: str) -> list[Axes]:
    return [axes for pair, axes in sheet.pairs.items() if name in pair]


def _range(sheet: Sheet, letter: str, members: list[str]) -> tuple[float, float]:
    settings: dict[str, Any] = {}
    for name in members:
        if name in sheet.categories:
            settings |= {"range": [-0.5, len(sheet.categories[name]) - 0.5]}
            if sheet.axis(name).get("autorange") == "reversed":
                settings["range"].reverse()
        own = sheet.axis(name)
        settings |= {k: own[k] for k in ("range", "autorange", "rangemode", "type") if own.get(k) is not None}
    if "range" in settings and None not in settings["range"]:
        low, high = (float(v) for v in settings["range"])
        return (10**low, 10**high) if settings.get("type") == "log" else (low, high)
    limits = [
        limit
        for name in members
        for axes in _on(sheet, name)
        if axes.has_data()
        for limit in (axes.get_xlim() if letter == "x" else axes.get_ylim())
    ]
    low, high = (min(limits), max(limits)) if limits else (0.0, 1.0)
    if settings.get("rangemode") in ("tozero", "nonnegative") and settings.get("type") != "log":
        low = min(0.0, low) if settings["rangemode"] == "tozero" else max(0.0, low)
    return (high, low) if settings.get("autorange") == "reversed" else (low, high)


def _dress(sheet: Sheet, axes: Axes, x: str, y: str) -> None:
    for spine in axes.spines.values():
        spine.set_visible(False)
    if "overlaying" in sheet.axis(y) or "overlaying" in sheet.axis(x):
        axes.patch.set_visible(False)
    for name, other in ((x, y), (y, x)):
        settings = sheet.axis(name)
        written = settings.get("visible", True) and settings.get("anchor", "y" if name[0] == "x" else "x") in (
            other,
            "free",
        )
        _along(sheet, axes, name, settings, written)


def _along(sheet: Sheet, axes: Axes, name: str, settings: dict[str, Any], written: bool) -> None:
    letter = name[0]
    axis = axes.xaxis if letter == "x" else axes.yaxis
    side = settings.get("side", "bottom" if letter == "x" else "left")
    shown = settings.get("visible", True)
    _ticks(sheet, axis, name, settings)
    labels = written and settings.get("showticklabels", True)
    default = sheet.layout.get("font", {})
    text = font(settings.get("tickfont"), default)
    outside = written and settings.get("ticks") == "outside"
    axis.set_tick_params(
        which="major",
        length=settings.get("ticklen", 5) * POINTS if outside else 0,
        color=color(settings.get("tickcolor", "#444")),
        labelsize=text["fontsize"],
        labelcolor=text["color"],
        width=0.7,
        pad=3,
    )
    axis.set_tick_params(
        which="both",
        **{k: labels and k == f"label{side}" for k in _sides(letter, "label")},
        **{k: outside and k == side for k in _sides(letter)},
    )
    if shown and settings.get("showgrid", True) and name not in sheet.categories:
        axis.grid(True, which="major", color=color(settings.get("gridcolor", "#eee")), linewidth=0.8)
    if written and settings.get("showline"):
        spine = axes.spines[side]
        spine.set_visible(True)
        spine.set(color=color(settings.get("linecolor", "#444")), linewidth=0.8)
    angle = settings.get("tickangle")
    if labels and angle:
        for label in axis.get_ticklabels():
            label.set(
                rotation=-angle,
                ha="right" if letter == "x" and angle < 0 else "left" if letter == "x" else "right",
                rotation_mode="anchor",
            )
    title = settings.get("title") or {}
    if written and title.get("text"):
        axis.set_label_position(side)
        axis.set_label_text(words(title["text"]), **font(title.get("font"), default, title["text"]))
        axis.labelpad = 2 + title.get("standoff", 6) * POINTS * 0.5


def _sides(letter: str, prefix: str = "") -> list[str]:
    return [prefix + side for side in (("bottom", "top") if letter == "x" else ("left", "right"))]


def _ticks(sheet: Sheet, axis: Any, name: str, settings: dict[str, Any]) -> None:
    suffix, prefix, pattern = settings.get("ticksuffix", ""), settings.get("tickprefix", ""), settings.get("tickformat")
    axis.set_minor_locator(NullLocator())
    if settings.get("tickvals") is not None:
        values = sheet.numbers(settings["tickvals"], name)
        texts = [words(t) for t in settings.get("ticktext") or [number(v, pattern) for v in values]]
        axis.set_major_locator(FixedLocator(values))
        axis.set_major_formatter(
            FuncFormatter(lambda value, at: texts[at] if at is not None and at < len(texts) else "")
        )
        return
    if name in sheet.categories:
        names = list(sheet.categories[name])
        axis.set_major_locator(FixedLocator(range(len(names))))
        axis.set_major_formatter(
            FuncFormatter(lambda value, at: words(names[int(value)]) if 0 <= value < len(names) else "")
        )
        return
    low, high = sorted(axis.get_view_interval())
    if settings.get("type") == "log":
        _log_ticks(axis, low, high, lambda value: prefix + number(value, pattern or ".3~g") + suffix, bool(pattern))
        return
    pixels = axis.axes.bbox.width / 55 if name[0] == "x" else axis.axes.bbox.height / 34
    dtick = settings.get("dtick")
    free = MaxNLocator(max(3, min(10, int(pixels))), steps=[1, 2, 5, 10])
    axis.set_major_locator(MultipleLocator(dtick) if isinstance(dtick, (int, float)) else free)
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: prefix + number(0.0 if abs(value) < 1e-12 else value, pattern) + suffix)
    )


def _log_ticks(axis: Any, low: float, high: float, text: Any, plain: bool) -> None:
    """Powers of ten where the axis spans some; within one or two decades, round numbers."""
    decades = np.log10(high / low) if low > 0 else 3.0
    if decades > 2:
        axis.set_major_locator(LogLocator(10, numticks=7))
        if not plain:
            axis.set_major_formatter(FuncFormatter(lambda v, _: f"$10^{{{round(np.log10(v))}}}$"))
            return
    elif decades > 0.7:
        axis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
    else:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda v, _: text(v)))
