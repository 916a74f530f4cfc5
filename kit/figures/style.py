"""Colours, template and the small pieces that several figures share."""

from __future__ import annotations

import zlib
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from kit.errors import KitError
from kit.run import Run

# Okabe & Ito 2008: eight colours told apart with any kind of colour blindness
PALETTE = {
    "black": "#000000", "orange": "#E69F00", "sky": "#56B4E9", "green": "#009E73",
    "yellow": "#F0E442", "blue": "#0072B2", "vermillion": "#D55E00", "purple": "#CC79A7",
}  # fmt: skip
INK, GREY, FAINT, SHADE = "#222222", "#6E6E6E", "#E3E3E3", "rgba(86, 180, 233, 0.13)"

# one colour per candidate operation, in every figure; the two kernel sizes of a kind are a dark and a light neighbour
OP_COLORS = {
    "sep_conv_3x3": PALETTE["blue"], "sep_conv_5x5": PALETTE["sky"], "dil_conv_3x3": PALETTE["vermillion"],
    "dil_conv_5x5": PALETTE["orange"], "max_pool_3x3": PALETTE["green"], "avg_pool_3x3": PALETTE["purple"],
    "skip_connect": PALETTE["black"], "none": "#999999",
}  # fmt: skip
OP_TITLES = {
    "sep_conv_3x3": "sep conv 3×3", "sep_conv_5x5": "sep conv 5×5", "dil_conv_3x3": "dil conv 3×3", "dil_conv_5x5": "dil conv 5×5",
    "max_pool_3x3": "max pool 3×3", "avg_pool_3x3": "avg pool 3×3", "skip_connect": "skip", "none": "none",
}  # fmt: skip
METHOD_COLORS = {
    "dha": PALETTE["vermillion"], "nas+da": PALETTE["blue"], "nas+hpo": PALETTE["green"], "ista": PALETTE["black"],
    "da+hpo": PALETTE["purple"], "random": PALETTE["orange"], "plain": PALETTE["sky"],
}  # fmt: skip
LOW_TO_HIGH = [[0.0, PALETTE["blue"]], [0.5, "#F7F7F7"], [1.0, PALETTE["vermillion"]]]  # diverging: less than, as, more than expected


def _axis() -> dict[str, Any]:
    return {
        "gridcolor": FAINT, "linecolor": GREY, "tickcolor": GREY, "ticks": "outside", "ticklen": 4, "showline": True, "zeroline": False,
        "automargin": True, "title": {"font": {"size": 13}, "standoff": 8}, "tickfont": {"size": 12},
    }  # fmt: skip


# An explicit white paper: the figure reads the same in a dark JupyterLab, in a slide and in print.
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "Open Sans, DejaVu Sans, Arial, sans-serif", "size": 13, "color": INK},
        "title": {"x": 0.01, "xanchor": "left", "y": 1, "yanchor": "top", "pad": {"t": 16}, "font": {"size": 18}},
        "paper_bgcolor": "white", "plot_bgcolor": "white", "colorway": [c for name, c in PALETTE.items() if name != "yellow"],
        "xaxis": _axis(), "yaxis": _axis(), "hovermode": "closest", "margin": {"l": 70, "r": 30, "t": 70, "b": 60},
        "modebar": {"orientation": "v", "bgcolor": "rgba(255,255,255,0)"},  # in the right margin, clear of title and legend
        "legend": {"bgcolor": "rgba(255,255,255,0.8)", "font": {"size": 13}},
    }
)  # fmt: skip


def op_title(name: str) -> str:
    return OP_TITLES.get(name, name.replace("_", " "))


def op_color(name: str) -> str:
    return OP_COLORS.get(name, GREY)


def method_look(name: str) -> tuple[str, str]:
    """(colour, dash) of a method, the same in every figure. A sequential form is the dashed twin of its joint one."""
    if name in METHOD_COLORS:
        return METHOD_COLORS[name], "solid"
    if name.removeprefix("seq-") in METHOD_COLORS:
        return METHOD_COLORS[name.removeprefix("seq-")], "dash"
    colors = TEMPLATE.layout.colorway
    return colors[zlib.crc32(name.encode()) % len(colors)], "dot"


def blank(text: str, title: str = "") -> go.Figure:
    """A figure that says why there is nothing to draw."""
    figure = go.Figure(layout={"template": TEMPLATE, "height": 160, "title": {"text": title}})
    figure.update_layout(xaxis={"visible": False, "range": [0, 1]}, yaxis={"visible": False, "range": [0, 1]})
    return figure.add_annotation(text=text, x=0.5, y=0.5, showarrow=False, font={"size": 15, "color": GREY})


def by_epoch(run: Run) -> pd.DataFrame:
    """The history's per-epoch values, one column per name, index epoch. Raises KitError before the first epoch is completed."""
    rows = run.history
    rows = rows[~rows["name"].str.startswith("step/")] if len(rows) else rows
    if rows.empty:
        raise KitError(f"{run.path.name} has no completed epoch to draw yet ({run.status})")
    return rows.pivot_table(index="epoch", columns="name", values="value", aggfunc="last").sort_index()


def stages(run: Run) -> list[tuple[str, int, int]]:
    """(name, first, last) of each stage so far: it lasted from `first` to `last`, both in completed epochs."""
    index = by_epoch(run)["stage"].astype(int)
    names = [stage.name for stage in run.config.composition.stages]
    return [(names[i], int(epochs.index.min()) - 1, int(epochs.index.max())) for i, epochs in index.groupby(index)]


def mark_stages(figure: go.Figure, run: Run, axis: str = "", label: bool = True) -> None:
    """Shade the search stage behind the panel with axes x<axis>, y<axis>, rule off its end, and name the stages at the top."""
    spans = stages(run)
    where = {"xref": f"x{axis}", "yref": f"y{axis} domain"}
    for name, first, last in spans:
        if name == "search":
            figure.add_shape(type="rect", x0=first, x1=last, y0=0, y1=1, fillcolor=SHADE, line={"width": 0}, layer="below", **where)
        if last != spans[-1][2]:
            figure.add_shape(type="line", x0=last, x1=last, y0=0, y1=1, line={"color": GREY, "width": 1, "dash": "dot"}, **where)
        if label and len(spans) > 1:
            figure.add_annotation(text=name, x=(first + last) / 2, y=1, yanchor="bottom", showarrow=False,
                                  font={"size": 11, "color": GREY}, **where)  # fmt: skip


def headline(run: Run) -> str:
    """dataset, method's title and seed, for a figure's title."""
    config = run.config
    return f"{config.dataset.rstrip('/').rsplit('/', 1)[-1]} · {config.composition.title} · seed {config.seed}"


def legend_below_title(height: int) -> dict[str, Any]:
    """A legend in one line under the title of a figure of that height, whatever its width."""
    return {"orientation": "h", "x": 0, "xanchor": "left", "y": 1 - 42 / height, "yref": "container", "yanchor": "top"}
