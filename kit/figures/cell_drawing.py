"""One cell as a graph from left to right, one path of choice blocks as a strip: plotly's traces and annotations, as
dicts.

Every edge of a cell has a row of its own and its operation's name stands just before the node that it enters; nodes
stand between the rows
of their edges. So neither names nor nodes can overlap, also when a node takes one input through two operations.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kit.figures import tiles
from kit.figures.style import GREY, INK, op_color, op_title
from kit.space.cell import INPUTS, NODES

SOURCES = ("cₖ₋₂", "cₖ₋₁", *(str(node) for node in range(NODES)))
REACH = 0.42  # of a column: how far right of its source an edge turns into its row
LABEL, NARROW = 0.36, 0.44  # of a column: from the middle of an operation's name to the node that it enters
PALE = 0.25  # opacity of what two runs have in common
Edge = tuple[str, int]  # operation, input: 0 and 1 are the two cells before, 2 … the nodes

# how tall a choice block is drawn: its kernel; and what is written on it
KERNELS = {
    "shuffle_3x3": 3,
    "shuffle_5x5": 5,
    "shuffle_7x7": 7,
    "xception": 3,
    "k3_e3": 3,
    "k3_e6": 3,
    "k5_e3": 5,
    "k5_e6": 5,
}
SHORT = {
    "shuffle_3x3": "3×3",
    "shuffle_5x5": "5×5",
    "shuffle_7x7": "7×7",
    "xception": "Xc",
    "k3_e3": "3×3<br>×3",
    "k3_e6": "3×3<br>×6",
    "k5_e3": "5×5<br>×3",
    "k5_e6": "5×5<br>×6",
}


@dataclass
class Drawing:
    """moving: what an animation changes from epoch to epoch; fixed: the rest. y: the range of the y axis."""

    moving: list[dict[str, Any]]
    fixed: list[dict[str, Any]]
    notes: list[dict[str, Any]]
    y: list[float]
    x: list[float] = field(default_factory=lambda: [-1.25, NODES + 0.35])


# ---- cells ---------------------------------------------------------------------------------------


def graph(
    nodes: Sequence[Sequence[Edge]],
    axis: str = "",
    *,
    short: bool = False,
    pale: Collection[tuple[int, int]] = (),
    marked: Collection[tuple[int, int]] = (),
    widths: Mapping[tuple[int, int], float] | None = None,
    frozen: Collection[int] = (),
) -> Drawing:
    """nodes: the edges of each node. axis: "" or "2" …: of x<axis> and y<axis>. short: brief names, for narrow places.
    pale, marked: edges
    (node, number) in the background or bold. widths: of the edges' lines in pixels. frozen: nodes that do not change
    any more."""
    rows, row = [], 0.0
    for edges in nodes:
        rows.append([-(row + k) for k in range(len(edges))])
        row += len(edges) + 0.35
    middle = -(row - 1.35) / 2
    places = {0: (-1.0, middle + row * 0.22), 1: (-1.0, middle - row * 0.22)}
    places |= {INPUTS + node: (float(node), sum(mine) / max(len(mine), 1)) for node, mine in enumerate(rows)}
    end, where = (float(NODES), middle), {"xaxis": f"x{axis}", "yaxis": f"y{axis}"}
    notes = [_node(SOURCES[index], x, y, axis, frozen=index - INPUTS in frozen) for index, (x, y) in places.items()]
    notes.append(_node("cₖ", *end, axis))
    moving, before = [], NARROW if short else LABEL
    for node, edges in enumerate(nodes):
        for k, (op, source) in enumerate(edges):
            faint = (node, k) in pale
            width = (widths or {}).get((node, k), 5.0 if (node, k) in marked else 2.5)
            moving.append(
                _edge(op, places[int(source)], places[INPUTS + node], rows[node][k], before, width, faint, where)
            )
            notes.append(
                _name(op, places[INPUTS + node][0] - before, rows[node][k], axis, short, faint, (node, k) in marked)
            )
    joined = [_curve(places[INPUTS + node], end, end[0] - 0.4, start=end[0] - 0.9) for node in range(NODES)]
    fixed = [_line(joined, "concatenated", {"color": "#B5B5B5", "width": 1.5}, where)]
    return Drawing(moving, fixed, notes, [-(row - 0.75), 0.6])


def _edge(
    op: str,
    source: tuple[float, float],
    target: tuple[float, float],
    y: float,
    before: float,
    width: float,
    faint: bool,
    where: dict[str, str],
) -> dict[str, Any]:
    """From its source to its name, which stands so far `before` its node in the edge's own row, and on into the node:
    one trace.
    """
    at = target[0] - before
    parts = [
        _curve(source, (at, y), source[0] + min(REACH, 0.85 - before)),
        _curve((at, y), target, target[0] - 0.02, start=at + before / 2),
    ]
    return _line(parts, op_title(op), {"color": op_color(op), "width": width}, where) | (
        {"opacity": PALE} if faint else {"opacity": 1.0}
    )


def _line(parts: Sequence[np.ndarray], name: str, line: dict[str, Any], where: dict[str, str]) -> dict[str, Any]:
    gap = np.full((1, 2), np.nan)
    points = np.concatenate([row for part in parts for row in (part, gap)])[:-1].astype(np.float32)
    return {
        "type": "scatter",
        "x": points[:, 0],
        "y": points[:, 1],
        "mode": "lines",
        "line": line,
        "name": name,
        "showlegend": False,
        "hoverinfo": "name",
        **where,
    }


def _curve(
    source: tuple[float, float], target: tuple[float, float], turned: float, start: float | None = None
) -> np.ndarray:
    """[18, 2] from source to target: an S between x = start (default: the source) and x = turned, straight on before
    and after.
    """
    begin = source[0] if start is None else start
    t = np.linspace(0, 1, 16)
    x = np.concatenate([[source[0]], begin + (turned - begin) * t, [target[0]]])
    y = np.concatenate([[source[1]], source[1] + (target[1] - source[1]) * (3 * t**2 - 2 * t**3), [target[1]]])
    return np.stack([x, y], axis=1)


def _name(op: str, x: float, y: float, axis: str, short: bool, faint: bool, marked: bool) -> dict[str, Any]:
    fill = op_color(op)
    look = {
        "bgcolor": fill,
        "bordercolor": INK if marked else fill,
        "borderwidth": 2 if marked else 1,
        "font": {"size": 12, "color": ink_on(fill)},
    }
    if faint:
        look = {"bgcolor": "#F4F4F4", "bordercolor": "#D5D5D5", "borderwidth": 1, "font": {"size": 12, "color": GREY}}
    if short:
        look["font"]["size"] = 11
    return {
        "text": op_title(op, short),
        "x": x,
        "y": y,
        "xref": f"x{axis}",
        "yref": f"y{axis}",
        "showarrow": False,
        "borderpad": 2 if short else 3,
        **look,
    }


def _node(text: str, x: float, y: float, axis: str, frozen: bool = False) -> dict[str, Any]:
    return {
        "text": f"<b>{text}{' ◆' if frozen else ''}</b>",
        "x": x,
        "y": y,
        "xref": f"x{axis}",
        "yref": f"y{axis}",
        "showarrow": False,
        "bgcolor": "#D9D9D9" if frozen else "#F2F2F2",
        "bordercolor": INK if frozen else GREY,
        "borderwidth": 2 if frozen else 1,
        "borderpad": 5,
        "font": {"size": 14, "color": INK},
    }


def ink_on(fill: str) -> str:
    """Black or white, whichever is read more easily on a colour."""
    dark = sum(int(fill[i : i + 2], 16) * weight for i, weight in ((1, 0.299), (3, 0.587), (5, 0.114))) < 140
    return "white" if dark else "black"


# ---- choice blocks -------------------------------------------------------------------------------


def strip(
    names: Sequence[str],
    ops: Sequence[str],
    stages: Sequence[tuple[str, int]] = (),
    axis: str = "",
    *,
    pale: Collection[int] = (),
    marked: Collection[int] = (),
    frozen: Collection[int] = (),
    numbers: bool = True,
) -> Drawing:
    """The path from left to right, a box per block as tall as its kernel; stages stand apart. ops: every candidate, one
    trace each.

    stages: (what is written over them, how many blocks). pale, marked, frozen: blocks by number.
    """
    at = _abreast(len(names), stages)
    where = {"xaxis": f"x{axis}", "yaxis": f"y{axis}"}
    ref = {"xref": f"x{axis}", "yref": f"y{axis}", "showarrow": False}
    boxes: dict[str, list[tiles.Rectangle]] = {op: [] for op in ops}
    notes: list[dict[str, Any]] = []
    for k, name in enumerate(names):
        half = 0.22 + 0.045 * KERNELS.get(name, 5)
        if k not in pale:
            boxes.setdefault(name, []).append((at[k] - 0.44, at[k] + 0.44, -half, half))
        ink = GREY if k in pale else ink_on(op_color(name))
        look = {"bgcolor": "#F4F4F4", "bordercolor": "#D5D5D5", "borderpad": 3} if k in pale else {}
        text = f"<b>{SHORT.get(name, name)}</b>" if k in marked else SHORT.get(name, op_title(name, short=True))
        notes.append({"text": text, "x": at[k], "y": 0, "font": {"size": 12, "color": ink}, **ref, **look})
        if numbers:
            number = f"{k}{' ◆' if k in frozen else ''}"
            notes.append(
                {"text": number, "x": at[k], "y": -0.62, "yanchor": "top", "font": {"size": 10, "color": GREY}, **ref}
            )
    ends = (at[0] - 1.3, at[-1] + 1.3) if len(at) else (0.0, 1.0)
    notes += [
        {**_node(text, x, 0, axis), "font": {"size": 12, "color": INK}} for text, x in zip(("stem", "head"), ends)
    ]
    done = 0
    for text, count in stages:
        middle = (at[done] + at[done + count - 1]) / 2
        notes.append(
            {"text": text, "x": middle, "y": 0.66, "yanchor": "bottom", "font": {"size": 11, "color": GREY}, **ref}
        )
        done += count
    wire = _line([np.array([[ends[0], 0.0], [ends[1], 0.0]])], "path", {"color": "#B5B5B5", "width": 2}, where)
    moving = [tiles.filled(found, op_color(op), name=op_title(op), **where) for op, found in boxes.items()]
    return Drawing(moving, [wire], notes, [-0.95, 1.05 if stages else 0.65], [ends[0] - 0.6, ends[1] + 0.6])


def _abreast(count: int, stages: Sequence[tuple[str, int]]) -> list[float]:
    """x of every block: neighbours a step apart, half a step more between stages."""
    firsts, done = set(), 0
    for _, blocks in stages:
        done += blocks
        firsts.add(done)
    x, at = 0.0, []
    for k in range(count):
        x += 0.5 if k in firsts else 0.0
        at.append(x)
        x += 1.0
    return at
