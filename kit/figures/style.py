"""Colours, template and the small pieces that several figures share."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from kit.errors import KitError
from kit.methods import METHODS, Method
from kit.run.run import Run

# Okabe & Ito 2008: eight colours told apart with any kind of colour blindness
PALETTE = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "purple": "#CC79A7",
}
INK, GREY, FAINT, SHADE = "#222222", "#6E6E6E", "#E3E3E3", "rgba(86, 180, 233, 0.13)"

# one colour per candidate operation, in every figure; the two kernel sizes of a kind are a dark and a light neighbour
OP_COLORS = {
    "sep_conv_3x3": PALETTE["blue"],
    "sep_conv_5x5": PALETTE["sky"],
    "dil_conv_3x3": PALETTE["vermillion"],
    "dil_conv_5x5": PALETTE["orange"],
    "max_pool_3x3": PALETTE["green"],
    "avg_pool_3x3": PALETTE["purple"],
    "skip_connect": PALETTE["black"],
    "none": "#999999",
    # choice blocks: ShuffleNetV2's kernel sizes and the Xception-like one; MobileNetV2's kernel (hue) and expansion
    # (light, dark)
    "shuffle_3x3": PALETTE["sky"],
    "shuffle_5x5": PALETTE["blue"],
    "shuffle_7x7": PALETTE["purple"],
    "xception": PALETTE["orange"],
    "k3_e3": PALETTE["sky"],
    "k3_e6": PALETTE["blue"],
    "k5_e3": PALETTE["orange"],
    "k5_e6": PALETTE["vermillion"],
}
OP_TITLES = {
    "sep_conv_3x3": "sep conv 3×3",
    "sep_conv_5x5": "sep conv 5×5",
    "dil_conv_3x3": "dil conv 3×3",
    "dil_conv_5x5": "dil conv 5×5",
    "max_pool_3x3": "max pool 3×3",
    "avg_pool_3x3": "avg pool 3×3",
    "skip_connect": "skip",
    "none": "none",
    "shuffle_3x3": "shuffle 3×3",
    "shuffle_5x5": "shuffle 5×5",
    "shuffle_7x7": "shuffle 7×7",
    "xception": "xception",
    "k3_e3": "3×3, ×3",
    "k3_e6": "3×3, ×6",
    "k5_e3": "5×5, ×3",
    "k5_e6": "5×5, ×6",
}
METHOD_COLORS = {
    "dha": PALETTE["vermillion"],
    "nas+da": PALETTE["blue"],
    "nas+hpo": PALETTE["green"],
    "ista": PALETTE["black"],
    "da+hpo": PALETTE["purple"],
    "random": PALETTE["orange"],
    "plain": PALETTE["sky"],
}
LOW_TO_HIGH = [
    [0.0, PALETTE["blue"]],
    [0.5, "#F7F7F7"],
    [1.0, PALETTE["vermillion"]],
]  # diverging: less than, as, more than expected
SETTLED = ("tuning", "training", "retraining")  # stages in which no architecture is searched


def _axis() -> dict[str, Any]:
    return {
        "gridcolor": FAINT,
        "linecolor": GREY,
        "tickcolor": GREY,
        "ticks": "outside",
        "ticklen": 4,
        "showline": True,
        "zeroline": False,
        "automargin": True,
        "title": {"font": {"size": 13}, "standoff": 8},
        "tickfont": {"size": 12},
    }


# An explicit white paper: the figure reads the same in a dark JupyterLab, in a slide and in print.
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "Open Sans, DejaVu Sans, Arial, sans-serif", "size": 13, "color": INK},
        "title": {"x": 0.01, "xanchor": "left", "y": 1, "yanchor": "top", "pad": {"t": 16}, "font": {"size": 18}},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "colorway": [c for name, c in PALETTE.items() if name != "yellow"],
        "xaxis": _axis(),
        "yaxis": _axis(),
        "hovermode": "closest",
        "margin": {"l": 70, "r": 30, "t": 70, "b": 60},
        "modebar": {
            "orientation": "v",
            "bgcolor": "rgba(255,255,255,0)",
        },  # in the right margin, clear of title and legend
        "legend": {"bgcolor": "rgba(255,255,255,0.8)", "font": {"size": 13}},
    }
)


def op_title(name: str, short: bool = False) -> str:
    """An operation's name as it is written in figures; short: without the word "conv" or "pool", for narrow places."""
    title = OP_TITLES.get(name, name.replace("_", " "))
    return title.replace(" conv", "").replace(" pool", "") if short else title


def op_color(name: str) -> str:
    return OP_COLORS.get(name, GREY)


def method_look(name: str) -> tuple[str, str]:
    """(colour, dash) of a method, the same in every figure. A sequential form is the dashed twin of its joint one."""
    if name in METHOD_COLORS:
        return METHOD_COLORS[name], "solid"
    if name.removeprefix("seq-") in METHOD_COLORS:
        return METHOD_COLORS[name.removeprefix("seq-")], "dash"
    colors = TEMPLATE.layout.colorway
    others = [known for known in METHODS if known not in METHOD_COLORS and not known.startswith("seq-")]
    place = others.index(name) if name in others else zlib.crc32(name.encode())
    return colors[place % len(colors)], ("dot", "dashdot", "longdash")[place // len(colors) % 3]


def log_ticks(low: float, high: float) -> dict[str, Any]:
    """Settings of a logarithmic axis from 10**low to 10**high: within a decade or so its powers would be one tick or
    none.
    """
    if high - low > 1.5:
        return {"dtick": 1}
    # all digits of a decade would crowd at its upper end
    return {"tickformat": ".2~e", **({"dtick": "D2"} if high - low > 0.6 else {"nticks": 5})}


def blank(text: str, title: str = "") -> go.Figure:
    """A figure that says why there is nothing to draw."""
    figure = go.Figure(layout={"template": TEMPLATE, "height": 160, "title": {"text": title}})
    figure.update_layout(xaxis={"visible": False, "range": [0, 1]}, yaxis={"visible": False, "range": [0, 1]})
    return figure.add_annotation(text=text, x=0.5, y=0.5, showarrow=False, font={"size": 15, "color": GREY})


def tidy(run: Run) -> pd.DataFrame:
    """The history's per-epoch values, one column per name, index epoch; empty before the first epoch is completed."""
    rows = run.history
    rows = rows[~rows["name"].str.startswith("step/")] if len(rows) else rows
    return (
        rows.pivot_table(index="epoch", columns="name", values="value", aggfunc="last").sort_index()
        if len(rows)
        else pd.DataFrame()
    )


def by_epoch(run: Run) -> pd.DataFrame:
    """As `tidy`. Raises KitError before the first epoch is completed."""
    frame = tidy(run)
    if frame.empty:
        raise KitError(f"{run.path.name} has no completed epoch to draw yet ({run.status})")
    return frame


def method_of(run: Run) -> Method | None:
    """What the run's method composes; None for a method that this version does not know."""
    return METHODS.get(str(getattr(run.config, "method", "")))


def stage_spans(run: Run, frame: pd.DataFrame) -> list[tuple[str, int, int]]:
    """(name, first, last) of each stage so far: it lasted from `first` to `last`, both in completed epochs. frame: as
    from `tidy`.
    """
    method = method_of(run)
    if method is None or "stage" not in frame:  # of another version
        return []
    index = frame["stage"].dropna().astype(int)
    names = [stage.name for stage in method.stages]
    spans = [(i, int(epochs.index.min()) - 1, int(epochs.index.max())) for i, epochs in index.groupby(index)]
    return [(names[i] if i < len(names) else f"stage {i}", first, last) for i, first, last in spans]


def mark_stages(
    figure: go.Figure, spans: Sequence[tuple[str, int, int]], x: str = "x", y: str = "y", label: bool = True
) -> None:
    """Shade what is searched behind the panel with these axes, rule off its end, and name the stages at the top. spans:
    `stage_spans`'s.
    """
    where = {"xref": x, "yref": f"{y} domain"}
    for name, first, last in spans:
        if name not in SETTLED:
            figure.add_shape(
                type="rect", x0=first, x1=last, y0=0, y1=1, fillcolor=SHADE, line={"width": 0}, layer="below", **where
            )
        if last != spans[-1][2]:
            figure.add_shape(
                type="line", x0=last, x1=last, y0=0, y1=1, line={"color": GREY, "width": 1, "dash": "dot"}, **where
            )
        if label and len(spans) > 1:
            figure.add_annotation(
                text=name,
                x=(first + last) / 2,
                y=1,
                yanchor="bottom",
                showarrow=False,
                font={"size": 11, "color": GREY},
                **where,
            )


def dataset_of(run: Run) -> str:
    return str(getattr(run.config, "dataset", "?")).rstrip("/").rsplit("/", 1)[-1]


def headline(run: Run) -> str:
    """dataset, method's title and seed, for a figure's title."""
    method = method_of(run)
    title = method.title if method else getattr(run.config, "method", "unknown method")
    return f"{dataset_of(run)} · {title} · seed {getattr(run.config, 'seed', '?')}"


def legend_below_title(height: int) -> dict[str, Any]:
    """A legend in one line under the title of a figure of that height, whatever its width."""
    return {"orientation": "h", "x": 0, "xanchor": "left", "y": 1 - 42 / height, "yref": "container", "yanchor": "top"}
