"""Architectures drawn: a cell as a graph, a path of choice blocks as a strip; two beside each other; over the epochs.

Every edge of a cell has a row of its own, and its operation's name stands in it just before the node that it enters, so
that neither names nor nodes can overlap.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from kit.errors import KitError
from kit.figures.record import FRAMES, Record, need, thinned
from kit.figures.show import animate
from kit.figures.style import GREY, INK, Panel, arrange, blank, headline, look, op_legend, op_title
from kit.run.run import Run
from kit.space import SPACES
from kit.space.blocks import BlockNetwork, rounded, shares
from kit.space.cell import INPUTS, NODES, cell_slots, picks_of

KINDS = {"normal": "normal cell", "reduce": "reduction cell"}
SOURCES = ("cₖ₋₂", "cₖ₋₁", *map(str, range(NODES)))
PALE = {"bgcolor": "#F4F4F4", "bordercolor": "#D5D5D5", "borderwidth": 1, "borderpad": 3}
HIDDEN = {"visible": False}
Genotype = Mapping[str, Any]
Point = tuple[float, float]

# ---- drawings ------------------------------------------------------------------------------------


def _graph(
    title: str,
    nodes: Sequence[Sequence[tuple[str, int]]],
    *,
    pale: Collection[tuple[int, int]] | None = None,
    widths: Mapping[tuple[int, int], float] | None = None,
    frozen: Collection[int] = (),
    names: Sequence[str] = SOURCES,
    inputs: int = INPUTS,
) -> Panel:
    """A cell. nodes: the (operation, input) pairs of each node; names: of the inputs, then of the nodes, which are
    concatenated where that is the usual cell's. pale: the edges (node, number) that another cell has
    too, where two are compared, side by side; widths: of the lines, in pixels; frozen: nodes that do not change."""
    concatenated, narrow = names == SOURCES, pale is not None or len(nodes) > NODES
    before = 0.5 if narrow else 0.45  # clear of a node with its diamond
    tops = np.cumsum([0.0, *(len(edges) + 0.35 for edges in nodes)])
    middle = -(tops[-1] - 1.35) / 2
    spread = tops[-1] * 0.44 / max(inputs - 1, 1)
    at: dict[int, Point] = {k: (-1.0, middle + spread * ((inputs - 1) / 2 - k)) for k in range(inputs)}
    at |= {inputs + n: (float(n), -(tops[n] + (len(edges) - 1) / 2)) for n, edges in enumerate(nodes)}
    notes, traces = [_node(names[index], x, y, index - inputs in frozen) for index, (x, y) in at.items()], []
    for n, edges in enumerate(nodes):
        for k, (op, source) in enumerate(edges):
            y, x, shared = -(tops[n] + k), n - before, (n, k) in (pale or ())
            width = (widths or {}).get((n, k), 5.0 if pale is not None and not shared else 2.5)
            start = at[int(source)]
            path = _curve(start, (start[0] + min(0.42, 0.85 - before), y)) + _curve((x + before / 2, y), at[inputs + n])
            line = {"color": look(op).color, "width": width}
            traces.append(_line(path, op_title(op), line) | {"opacity": 0.25 if shared else 1.0})
            notes.append(_name(op, x, y, narrow, shared))
    if concatenated:
        end = (float(NODES), middle)
        notes.insert(len(at), _node("cₖ", *end))
        joined = [point for n in range(NODES) for point in (*_curve(at[INPUTS + n], end), (None, None))]
        traces.append(_line(joined, "concatenated", {"color": "#B5B5B5", "width": 1.5}))
    x, y = (
        {**HIDDEN, "range": [-1.25, len(nodes) - 1 + (1.35 if concatenated else 0.25)]},
        {**HIDDEN, "range": [-(tops[-1] - 0.75), 0.6]},
    )
    return Panel(title, traces, y, 290, x=x, epochs=False, notes=notes)


def _curve(source: Point, target: Point) -> list[Point]:
    """An S from one point to another, level at both ends."""
    t = np.linspace(0, 1, 14)
    x = source[0] + (target[0] - source[0]) * t
    return list(zip(x.tolist(), (source[1] + (target[1] - source[1]) * (3 * t**2 - 2 * t**3)).tolist()))


def _line(points: Sequence[tuple], name: str, line: dict[str, Any]) -> dict[str, Any]:
    x, y = zip(*points)
    look_ = {"mode": "lines", "line": line, "showlegend": False, "hoverinfo": "name"}
    return {"type": "scatter", "x": x, "y": y, "name": name, **look_}


def _node(text: str, x: float, y: float, frozen: bool = False) -> dict[str, Any]:
    border = {"bordercolor": INK if frozen else GREY, "borderwidth": 2 if frozen else 1, "borderpad": 5}
    fill = {"bgcolor": "#D9D9D9" if frozen else "#F2F2F2", "font": {"size": 14, "color": INK}}
    return {"text": f"<b>{text}{' ◆' if frozen else ''}</b>", "x": x, "y": y, **fill, **border}


def _name(op: str, x: float, y: float, narrow: bool, pale: bool) -> dict[str, Any]:
    fill = look(op).color
    width, pad = (2, 2) if narrow else (1, 3)
    border = {"bordercolor": INK if narrow else fill, "borderwidth": width, "borderpad": pad}
    look_ = PALE if pale else {"bgcolor": fill, **border}
    font = {"size": 11 if narrow else 12, "color": GREY if pale else _ink_on(fill)}
    return {"text": op_title(op, short=narrow), "x": x, "y": y, "font": font, **look_}


def _ink_on(fill: str) -> str:
    """Black or white, whichever is read more easily on a colour."""
    dark = sum(int(fill[i : i + 2], 16) * weight for i, weight in ((1, 0.299), (3, 0.587), (5, 0.114))) < 140
    return "white" if dark else "black"


def _strip(
    title: str,
    blocks: Sequence[str],
    stages: Sequence[tuple[str, int]] = (),
    *,
    pale: Collection[int] | None = None,
    frozen: Collection[int] = (),
) -> Panel:
    """The path from left to right, a box per block as tall as its kernel. stages: (what is written over them, how many
    blocks); pale: the blocks that another path has too, where two are compared."""
    ends = np.cumsum([count for _, count in stages])
    at = [k + 0.5 * int((ends <= k).sum()) for k in range(len(blocks))]  # half a step more between stages
    traces, notes = [], []
    left, right = at[0] - 1.3, at[-1] + 1.3
    traces.append(_line([(left, 0), (right, 0)], "path", {"color": "#B5B5B5", "width": 2}))
    for k, (op, x) in enumerate(zip(blocks, at)):
        kernel, shared = int((re.search(r"\d", op) or "3")[0]), pale is not None and k in pale
        half, fill = 0.22 + 0.045 * kernel, "#F4F4F4" if shared else look(op).color
        corners = [(x - 0.44, -half), (x + 0.44, -half), (x + 0.44, half), (x - 0.44, half), (x - 0.44, -half)]
        traces.append(_line(corners, op_title(op), {"width": 0}) | {"fill": "toself", "fillcolor": fill})
        words = op_title(op, short=True).replace(", ", "<br>")
        words = f"<b>{words}</b>" if pale is not None and not shared else words
        notes.append({"text": words, "x": x, "y": 0, "font": {"size": 11, "color": GREY if shared else _ink_on(fill)}})
        number = {"text": f"{k}{' ◆' if k in frozen else ''}", "font": {"size": 10, "color": GREY}}
        notes.append({**number, "x": x, "y": -0.62, "yanchor": "top"})
    notes += [_node("stem", left, 0) | {"font": {"size": 12}}, _node("head", right, 0) | {"font": {"size": 12}}]
    for (text, count), stop in zip(stages, ends):
        middle = (at[stop - count] + at[stop - 1]) / 2
        font = {"size": 11, "color": GREY}
        notes.append({"text": text, "x": middle, "y": 0.66, "yanchor": "bottom", "font": font})
    x, y = {**HIDDEN, "range": [left - 0.6, right + 0.6]}, {**HIDDEN, "range": [-0.95, 1.15 if stages else 0.65]}
    return Panel(title, traces, y, 180, x=x, epochs=False, notes=notes)


def _panels(
    genotype: Genotype, run: Run | None = None, title: str = "", space: str | None = None, **details: dict[str, Any]
) -> list[Panel]:
    """The drawings of a genotype, as `run.genotype`. space: its name, where there is no run. details: options of each
    part's drawing, by the part's name.

    Raises KitError for what is no genotype."""
    if not isinstance(genotype, Mapping):
        raise KitError(f"a genotype is a dictionary, as run.genotype gives it; got {genotype!r:.80}")
    if "network" in genotype:
        words = {"text": f"{genotype['network']} is one fixed network without choices", "x": 0.5, "y": 0.5}
        axis = HIDDEN | {"range": [0, 1]}
        return [Panel(title, [], axis, 60, x=axis, epochs=False, notes=[words])]
    if set(genotype) == set(KINDS):
        if not details:  # what α's arrays tell may lack an edge
            offered = {op for part in SPACES.values() for op in getattr(part.make, "operations", ())}
            picks_of(dict(genotype), cell_slots(dict.fromkeys(offered)))
        heads = {kind: " · ".join(filter(None, (words, title))) for kind, words in KINDS.items()}
        return [_graph(heads[kind], genotype[kind], **details.get(kind, {})) for kind in KINDS]
    if "blocks" not in genotype:
        return _of_own_space(genotype, space or (run.config.space if run else None), title)
    blocks = genotype["blocks"]
    if not isinstance(blocks, (list, tuple)) or not blocks or not all(isinstance(name, str) for name in blocks):
        raise KitError(f"a genotype of choice blocks is {{'blocks': [a name for every block]}}; got {genotype!r}")
    make, stages = SPACES[run.config.space].make if run else None, []
    if run and issubclass(make, BlockNetwork):
        used = make.stages[: len(blocks)]
        counts = shares(len(blocks), [stage.share for stage in used])
        widths = [rounded(stage.width * run.config.channels) for stage in used]
        stages = [(f"stage {k}<br>{c} channels", n) for k, (c, n) in enumerate(zip(widths, counts), 1)]
    return [_strip(title, blocks, stages, **details.get("blocks", {}))]


def _of_own_space(genotype: Genotype, space: str | None, title: str) -> list[Panel]:
    """What the space's own `Network.graph` tells: a chain as a strip, anything else as a cell."""
    if space is None:
        raise KitError(
            "a genotype has the keys 'normal' and 'reduce', or 'blocks'; draw one of another space by "
            f"figures.cells(run) or figures.cell(genotype, space='its name'); got {genotype!r:.80}"
        )
    panels = []
    for part, links in SPACES[space].make.graph(genotype).items():
        head = " · ".join(filter(None, (part, title)))
        targets = list(dict.fromkeys(target for _, target, _ in links))
        if [(a, b) for a, b, _ in links] == list(zip([links[0][0], *targets], targets)):
            panels.append(_strip(head, [op for *_, op in links]))
            continue
        inputs = [name for name in dict.fromkeys(source for source, *_ in links) if name not in targets]
        names = (*inputs, *targets)
        nodes = [[(op, names.index(a)) for a, b, op in links if b == target] for target in targets]
        panels.append(_graph(head, nodes, names=names, inputs=len(inputs)))
    return panels


def _sheet(columns: Sequence[Sequence[Panel]], title: str, *genotypes: Genotype) -> go.Figure:
    """Drawings in columns; a legend has the full names of the genotypes' blocks, which are wider than the boxes."""
    legend = op_legend([op for genotype in genotypes for op in genotype.get("blocks", ())])
    n = len(columns)
    places = [(k / n + 0.01 * (k > 0), (k + 1) / n, panels) for k, panels in enumerate(columns)]
    figure = arrange(places, title, top=100 if legend else 84, gap=44, legend=legend)
    return figure.update_layout(margin={"l": 20, "r": 20, "b": 20}, height=figure.layout.height - 40)


# ---- figures -------------------------------------------------------------------------------------


def cell(genotype: Genotype, title: str = "", space: str | None = None) -> go.Figure:
    """A genotype from left to right: normal and reduction cell with inputs, nodes and concatenation, the path of
    blocks, or what a space of one's own, named by `space`, tells in its `graph`. genotype: as `run.genotype`. A fixed
    network gets a note. Raises KitError for what is not a genotype."""
    return _sheet([_panels(genotype, space=space)], title, genotype)


def cells(run: Run) -> go.Figure:
    """The architecture that a run found, or that stands at its last epoch where it is not finished.

    Raises KitError where neither is recorded."""
    genotype, when = _found(run)
    return _sheet([_panels(genotype, run)], f"{headline(run)} · {when}", genotype)


def _found(run: Run) -> tuple[Genotype, str]:
    """(the architecture, since when it stands, in words): from the model, else from α's last epoch."""
    if run.genotype:
        return run.genotype, "the architecture found"
    record = Record(run)
    if not record.alpha:
        raise KitError(f"{run.path.name} has neither a model nor a recorded α ({run.status}): no architecture to draw")
    return _at(record, -1), f"the architecture after epoch {int(record.alpha['epoch'][-1])}, so far"


def _at(record: Record, place: int) -> Genotype:
    """The genotype at a place of α's arrays."""
    picks = [
        [slot.candidates[c] if c >= 0 else ("none", 0) for c in columns[place]]
        for slot, columns in zip(record.slots, record.picked)
    ]
    if record.cells:
        return {"normal": picks[:NODES], "reduce": picks[NODES:]}
    chosen = tuple(tuple(columns[place].tolist()) for columns in record.picked)
    if record.outline is not None and min(map(min, chosen)) >= 0:
        return record.outline.genotype(chosen)
    return {"blocks": [chosen[0][0] for chosen in picks]}


def cells_compared(run_a: Run, run_b: Run) -> go.Figure:
    """Two runs' architectures beside each other: what they share is pale, what differs has its colour. Cells are
    compared node by node and blocks place by place; of two different spaces both are drawn, and the title says so."""
    runs, (a, b) = (run_a, run_b), (_found(run_a)[0], _found(run_b)[0])
    words, details = [], ({}, {})
    for part in ("blocks", *KINDS):
        if len(a.get(part, ())) == len(b.get(part, ())) > 0:
            common = [Counter(map(str, x)) & Counter(map(str, y)) for x, y in zip(_choices(a, part), _choices(b, part))]
            total = sum(map(len, _choices(a, part)))
            words.append(f"{KINDS.get(part, part)}: {sum(c.total() for c in common)} of {total} in common")
            for genotype, mine in zip((a, b), details):
                choices = [
                    (n, k, str(one)) for n, node in enumerate(_choices(genotype, part)) for k, one in enumerate(node)
                ]
                mine[part] = {"pale": {n if part == "blocks" else (n, k) for n, k, one in choices if one in common[n]}}
    names = [
        f"{run.path.name} · test accuracy {run.metrics['test_accuracy']:.2%}"
        if run.finished
        else f"{run.path.name} · so far"
        for run in runs
    ]
    both = [_panels(g, run, name, **mine) for g, run, name, mine in zip((a, b), runs, names, details)]
    if not words and run_a.config.space == run_b.config.space and a.keys() == b.keys():
        words = [f"{sum(a[key] == b[key] for key in a)} of {len(a)} in common"]
    apart = f"Spaces {run_a.config.space} and {run_b.config.space} offer different choices: not compared"
    title = " · ".join(words) + (" (pale)" if any(details) else "") if words else apart
    return _sheet(both if "normal" in details[0] else [both[0] + both[1]], title, a, b)


def _choices(genotype: Genotype, part: str) -> list[list[Any]]:
    """The choices at every node or block, in a form that can be compared."""
    return [[one] if part == "blocks" else [tuple(edge) for edge in one] for one in genotype[part]]


def cells_animated(run: Run) -> go.Figure:
    """The child at every epoch (at most 60, both ends among them) with a slider: an edge's width is its share of |α|
    among the node's candidates, ◆ marks what is frozen. A run that does not search gets a note. Raises KitError where α
    is not recorded."""
    record = need(run)
    if not record.searches:
        return blank("the architecture is fixed in this run: see figures.cells", headline(run))
    if not record.alpha:
        raise KitError(f"{run.path.name} has recorded no α over the epochs: see figures.cells(run)")
    words = "width: share of |α|" if record.cells else "height: kernel"
    title = f"{headline(run)} · child by epoch ({words} · ◆ frozen)"
    legend = {} if record.cells else {"blocks": record.candidates}
    places = thinned(len(record.alpha["epoch"]), FRAMES)
    moments = [_sheet([_panels(_at(record, k), run, **_details(record, k))], title, legend) for k in places]
    every = {"traces": list(range(len(moments[-1].data)))}
    frames = [every | {"data": m.data, "layout": {"annotations": m.layout.annotations}} for m in moments]
    return animate(moments[-1], record.alpha["epoch"][places].tolist(), frames)


def _details(record: Record, place: int) -> dict[str, dict[str, Any]]:
    """Widths of edges and frozen slots at a place of α's arrays."""
    size = np.abs(record.alpha["alpha"][place].astype(float))
    share = size / np.maximum(size.sum(axis=1, keepdims=True), 1e-12)
    picked = [columns[place].tolist() for columns in record.picked]
    frozen = np.flatnonzero(record.alpha["frozen"][place]).tolist()
    if not record.cells:
        return {"blocks": {"frozen": frozen}}
    found = {}
    for kind, first in zip(KINDS, (0, NODES)):
        edges = [(n, k, c) for n in range(NODES) for k, c in enumerate(picked[first + n])]
        widths = {(n, k): 1.5 + 14 * share[first + n, c] if c >= 0 else 0.0 for n, k, c in edges}
        found[kind] = {"widths": widths, "frozen": [n - first for n in frozen if first <= n < first + NODES]}
    return found
