"""How everything looks, and the one way of laying panels out: colours, titles, template, panels on one epoch axis."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from kit.arch import ARCH
from kit.augment import AUGMENT
from kit.augment import OPERATIONS as AUGMENTATIONS
from kit.hyper import HYPER
from kit.methods import METHODS
from kit.run.run import Run
from kit.space import SPACES

# Okabe & Ito 2008: eight colours told apart with any kind of colour blindness
PALETTE = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "black": "#000000",
    "yellow": "#F0E442",
}
SERIES = [color for name, color in PALETTE.items() if name != "yellow"]  # for whatever has no colour of its own
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
INK, GREY, FAINT, SHADE = "#222222", "#6E6E6E", "#E3E3E3", "rgba(86, 180, 233, 0.13)"
LOW_TO_HIGH = [[0.0, PALETTE["blue"]], [0.5, "#F7F7F7"], [1.0, PALETTE["vermillion"]]]  # less than, as, more than 1
PROBABILITY = [[0.0, "#F7F7F7"], [0.5, PALETTE["sky"]], [1.0, "#003B5C"]]
WIDTH = 1000  # pixels for which figures are laid out


class Look(NamedTuple):
    """How a method, a learner or an operation appears in every figure."""

    color: str
    title: str
    dash: str = "solid"


# Two kernel sizes of a kind are a dark and a light neighbour; of MobileNetV2's blocks, hue is kernel, light expansion.
OPERATIONS = {
    "sep_conv_3x3": Look(PALETTE["blue"], "sep conv 3×3"),
    "sep_conv_5x5": Look(PALETTE["sky"], "sep conv 5×5"),
    "dil_conv_3x3": Look(PALETTE["vermillion"], "dil conv 3×3"),
    "dil_conv_5x5": Look(PALETTE["orange"], "dil conv 5×5"),
    "max_pool_3x3": Look(PALETTE["green"], "max pool 3×3"),
    "avg_pool_3x3": Look(PALETTE["purple"], "avg pool 3×3"),
    "skip_connect": Look(PALETTE["black"], "skip"),
    "none": Look("#999999", "none"),
    "shuffle_3x3": Look(PALETTE["sky"], "shuffle 3×3"),
    "shuffle_5x5": Look(PALETTE["blue"], "shuffle 5×5"),
    "shuffle_7x7": Look(PALETTE["purple"], "shuffle 7×7"),
    "xception": Look(PALETTE["orange"], "xception"),
    "k3_e3": Look(PALETTE["sky"], "3×3, ×3"),
    "k3_e6": Look(PALETTE["blue"], "3×3, ×6"),
    "k5_e3": Look(PALETTE["orange"], "5×5, ×3"),
    "k5_e6": Look(PALETTE["vermillion"], "5×5, ×6"),
}
REGISTERED = (AUGMENT, ARCH, HYPER, SPACES, AUGMENTATIONS)  # whose parts bring a title, and may bring a colour
# of the joint forms; a sequential form is the dashed twin
METHOD_COLORS = dict(zip(("nas+da", "dha", "nas+hpo", "da+hpo", "random", "plain", "ista"), SERIES))


def look(name: str) -> Look:
    """Colour, title and dash of a method, a registered part or a network's operation, the same in every figure; of an
    unknown name too."""
    joint = name.removeprefix("seq-")
    if name in METHODS and joint in METHOD_COLORS:
        return Look(METHOD_COLORS[joint], METHODS[name].title, "solid" if joint == name else "dash")
    others = [known for known in METHODS if known.removeprefix("seq-") not in METHOD_COLORS]
    place = others.index(name) if name in others else zlib.crc32(name.encode())
    by_place = Look(SERIES[place % len(SERIES)], _words(name), DASHES[2:][place // len(SERIES) % 3])
    if name in METHODS:  # before the parts: a method may be called as its learner is, "daas"
        return by_place._replace(title=METHODS[name].title)
    usual = OPERATIONS.get(name, by_place)
    part = next((parts[name] for parts in REGISTERED if name in parts), None)
    if part is None or (name in OPERATIONS and not part.colour):  # "none" is an operation and a policy
        return usual
    return Look(part.colour or usual.color, part.title if part.title != name else usual.title, usual.dash)


def _words(name: str) -> str:
    """conv_7x7 → conv 7×7"""
    return re.sub(r"(?<=\d)x(?=\d)", "×", name.replace("_", " "))


def op_title(name: str, short: bool = False) -> str:
    """An operation's name as figures write it; short: for narrow places, without its kind of layer."""
    title = look(name).title
    return re.sub(" conv| pool|shuffle ", "", title).replace("xception", "Xc") if short else title


def _axis() -> dict[str, Any]:
    line = {"gridcolor": FAINT, "linecolor": GREY, "tickcolor": GREY, "showline": True, "zeroline": False}
    ticks = {"ticks": "outside", "ticklen": 4, "tickfont": {"size": 12}, "automargin": True}
    return {**line, **ticks, "title": {"font": {"size": 13}, "standoff": 8}}


# An explicit white paper: the figure reads the same in a dark JupyterLab, in a slide and in print.
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "Open Sans, DejaVu Sans, Arial, sans-serif", "size": 13, "color": INK},
        "title": {"x": 0.01, "xanchor": "left", "y": 1, "yanchor": "top", "pad": {"t": 16}, "font": {"size": 18}},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "colorway": SERIES,
        "xaxis": _axis(),
        "yaxis": _axis(),
        "hovermode": "closest",
        "margin": {"l": 70, "r": 30, "t": 70, "b": 60},
        "modebar": {"orientation": "v", "bgcolor": "rgba(255,255,255,0)"},  # in the right margin, clear of the title
        "legend": {"bgcolor": "rgba(255,255,255,0.8)", "font": {"size": 13}, "title": {"text": ""}},
    }
)


def faint(color: str, opacity: float) -> str:
    r, g, b = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r}, {g}, {b}, {opacity})"


def colored(text: str, color: str) -> str:
    return f'<span style="color:{color}">{text}</span>'


def op_legend(ops: Sequence[str]) -> list[dict[str, Any]]:
    """Traces that draw nothing but their entry in the legend, one for each operation."""
    entry = {"type": "scatter", "x": [None], "y": [None], "mode": "markers", "showlegend": True}
    looks = (look(op) for op in dict.fromkeys(ops))
    return [
        entry | {"name": name, "marker": {"symbol": "square", "size": 12, "color": color}} for color, name, _ in looks
    ]


def blank(text: str, title: str = "") -> go.Figure:
    """A figure that says why there is nothing to draw."""
    figure = go.Figure(layout={"template": TEMPLATE, "height": 160, "title": {"text": title}})
    figure.update_layout(xaxis={"visible": False, "range": [0, 1]}, yaxis={"visible": False, "range": [0, 1]})
    return figure.add_annotation(text=text, x=0.5, y=0.5, showarrow=False, font={"size": 15, "color": GREY})


def note(figure: go.Figure, text: str, below: float = 52) -> go.Figure:
    """A grey remark under the plot area, so many pixels below it."""
    place = {"xref": "paper", "yref": "paper", "x": 0, "y": 0, "xanchor": "left", "yanchor": "top", "yshift": -below}
    return figure.add_annotation(text=text, showarrow=False, align="left", font={"size": 12, "color": GREY}, **place)


def headline(run: Run) -> str:
    """Data set, method's title and seed, for a figure's title."""
    config = run.config
    return f"{str(config.dataset).rstrip('/').rsplit('/', 1)[-1]} · {look(config.method).title} · seed {config.seed}"


def legend_below_title(height: float) -> dict[str, Any]:
    """A legend in one line under the title of a figure of that height, whatever its width."""
    return {"orientation": "h", "x": 0, "xanchor": "left", "y": 1 - 42 / height, "yref": "container", "yanchor": "top"}


def log_axis(values: Sequence[np.ndarray], decades: float = 3.0) -> dict[str, Any]:
    """A logarithmic axis around all positive values, at most so many decades long: a cosine schedule ends at 0."""
    found = np.concatenate([np.asarray(v, dtype=float).ravel() for v in values])
    found = np.log10(found[found > 0])
    high = float(found.max()) if len(found) else 0.0
    low = max(float(found.min()), high - decades) if len(found) else -1.0
    room = max(0.08 * (high - low), 0.04)
    wide = high - low + 2 * room  # within a decade or so its powers would be one tick or none
    plain = ".3~g" if low > -2.5 and high < 4 else ".2~e"
    ticks = {"dtick": 1} if wide > 1.5 else {"tickformat": plain, **({"dtick": "D2"} if wide > 0.6 else {"nticks": 5})}
    return {"type": "log", "range": [low - room, high + room], "exponentformat": "power", **ticks}


# ---- panels --------------------------------------------------------------------------------------


@dataclass
class Panel:
    """One plot of a figure. traces: plotly's, as dicts without axes. x, y: settings of its axes; keys: (text, colour)
    beside the title. Where `epochs`, x is the epoch axis that all such panels share."""

    title: str
    traces: list[dict[str, Any]]
    y: dict[str, Any] = field(default_factory=dict)
    height: float = 100
    keys: Sequence[tuple[str, str]] = ()
    x: dict[str, Any] = field(default_factory=dict)
    epochs: bool = True
    notes: Sequence[dict[str, Any]] = ()  # annotations in its axes
    square: bool = False
    below: float = 0  # further pixels under it, for an axis with long labels


class Span(NamedTuple):
    """A stage of a run, from one completed epoch to another; search: whether an architecture is searched in it."""

    name: str
    first: int
    last: int
    search: bool


def arrange(
    columns: Sequence[tuple[float, float, Sequence[Panel]]],
    title: str,
    spans: Sequence[Span] = (),
    *,
    last: int = 1,
    gap: float = 54,
    top: float = 96,
    legend: Sequence[dict[str, Any]] = (),
) -> go.Figure:
    """A figure of panels under one another, at their heights in pixels, in columns: (from, to, panels) in shares of the
    width. spans: the stages to mark; last: the last epoch; gap: pixels between two panels; top: of the margin, for
    title, legend and stages' names; legend: traces with an entry in the legend."""
    tall = max(sum(panel.height + panel.below + gap for panel in panels) - gap for *_, panels in columns)
    layout: dict[str, Any] = {"template": TEMPLATE, "title": {"text": title}, "annotations": [], "shapes": []}
    axes: list[str] = []  # of the panels over epochs
    traces, number = [], 0
    for x0, x1, panels in columns:
        upper = 0.0
        for place, panel in enumerate(panels):
            number += 1
            k = str(number) if number > 1 else ""
            domain = [max(1 - (upper + panel.height) / tall, 0.0), 1 - upper / tall]
            x, y = {"domain": [x0, x1], "anchor": f"y{k}"}, {"domain": domain, "anchor": f"x{k}", **panel.y}
            y |= {"scaleanchor": f"x{k}"} if panel.square else {}
            layout["annotations"] += _notes(panel, k, {"x": x0, "y": domain[1]})
            if panel.epochs:
                lowest = place == len(panels) - 1
                x |= {"matches": f"x{axes[0]}"} if axes else {"range": [0, max(last, 1)]}
                x |= {"title": {"text": "epoch" if lowest else ""}, "showticklabels": lowest}
                axes.append(k)
                shapes, names = _stages(spans, k)
                layout["shapes"] += shapes
                layout["annotations"] += names if place == 0 else []
            layout |= {f"xaxis{k}": x | panel.x, f"yaxis{k}": y}
            where = {"showlegend": False, "xaxis": f"x{k}", "yaxis": f"y{k}"}
            traces += [_with_bar(trace, x1, domain) | where for trace in panel.traces]
            upper += panel.height + panel.below + gap
    layout |= {"meta": {"epochs": axes}, "height": tall + top + 60, "margin": {"t": top, "b": 60, "l": 85, "r": 40}}
    layout |= {"showlegend": bool(legend), "legend": legend_below_title(tall + top + 60)}
    return go.Figure([*traces, *legend], layout)


def _notes(panel: Panel, k: str, corner: dict[str, Any]) -> list[dict[str, Any]]:
    """A panel's title with its keys above its upper left corner, and its notes inside."""
    title = panel.title if panel.title.startswith("<b>") else f"<b>{panel.title}</b>"
    words = "   ".join([title, *(colored(text, color) for text, color in panel.keys)])
    place = {"xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom", "align": "left", "yshift": 15}
    heading = {"text": words, "font": {"size": 12}, "showarrow": False, **place, **corner}
    inside = {"xref": f"x{k}", "yref": f"y{k}", "showarrow": False}
    return [*([heading] if panel.title else []), *(inside | note for note in panel.notes)]


def _with_bar(trace: dict[str, Any], right: float, domain: Sequence[float]) -> dict[str, Any]:
    """A trace's colour bar, if it has one, stands right of its panel and is as tall."""
    if "colorbar" not in trace:
        return trace
    place = {
        "x": right,
        "xanchor": "left",
        "y": domain[0],
        "yanchor": "bottom",
        "len": domain[1] - domain[0],
        "xpad": 8,
    }
    look = {"thickness": 12, "outlinewidth": 0, "tickfont": {"size": 11}, "ypad": 0}
    return {**trace, "colorbar": {**place, **look, **trace["colorbar"]}}


def _stages(spans: Sequence[Span], k: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(a shade behind the stages that search and a rule between stages, the stages' names) for one panel."""
    where = {"xref": f"x{k}", "yref": f"y{k} domain"}
    shade = {"type": "rect", "fillcolor": SHADE, "line": {"width": 0}, "layer": "below", "y0": 0, "y1": 1, **where}
    rule = {"type": "line", "line": {"color": GREY, "width": 1, "dash": "dot"}, "y0": 0, "y1": 1, **where}
    name = {"y": 1, "yanchor": "bottom", "showarrow": False, "font": {"size": 11, "color": GREY}, **where}
    shades = [shade | {"x0": span.first, "x1": span.last} for span in spans if span.search]
    rules = [rule | {"x0": span.last, "x1": span.last} for span in spans[:-1]]
    names = [name | {"text": span.name, "x": (span.first + span.last) / 2} for span in spans]
    return shades + rules, names if len(spans) > 1 else []
