"""The architecture that a run found, drawn: cells as graphs, choice blocks as a strip; two runs beside each other; over
the epochs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from kit.errors import KitError
from kit.figures import animation
from kit.figures.cell_drawing import Drawing, graph, strip
from kit.figures.recorded import CHAINS, FRAMES, Recorded, need, read, shares, thinned
from kit.figures.style import GREY, INK, TEMPLATE, blank, headline, legend_below_title, method_of
from kit.run.run import Run
from kit.space.cell import NODES, picks_of

KINDS = {"normal": "normal cell", "reduce": "reduction cell"}
CELL, STRIP = 300, 190  # pixels of a cell's and a strip's panel
GAP = 40
Genotype = Mapping[str, Any]


def cell(genotype: Genotype, title: str = "") -> go.Figure:
    """A genotype from left to right: normal and reduction cell with their inputs, nodes 0 to 3 and concatenation; or
    the path of blocks.

    genotype: as `run.genotype`. A fixed network gets a note. Raises KitError for what is not a genotype.
    """
    return _sheet(_checked(genotype), title)


def cells(run: Run) -> go.Figure:
    """The architecture of a run: the one that it found, or the one that stands at the last epoch where it is not
    finished.

    Raises KitError where neither is recorded.
    """
    genotype, when = found(run)
    return _sheet(genotype, f"{headline(run)} · {when}", _stages(run, genotype))


def found(run: Run) -> tuple[dict[str, Any], str]:
    """(the architecture, in words since when it stands): from the model, else from α's last epoch."""
    try:
        return _checked(run.genotype), "the architecture found"
    except KitError:
        seen = read(run)
    if not seen.alpha or all((columns[-1] < 0).all() for columns in seen.picked):
        raise KitError(
            f"{run.path.name} has neither a model nor a recorded α ({run.status}), so there is no architecture to draw"
        )
    return _at(seen, -1), f"the architecture after epoch {int(seen.alpha['epoch'][-1])}, so far"


def _at(seen: Recorded, place: int) -> dict[str, Any]:
    """The genotype at a place of α's arrays."""
    picks = [[slot.candidates[c] for c in columns[place] if c >= 0] for slot, columns in zip(seen.slots, seen.picked)]
    if seen.cells:
        return {"normal": picks[:NODES], "reduce": picks[NODES:]}
    return {"blocks": [chosen[0][0] if chosen else "?" for chosen in picks]}


def _checked(genotype: Any) -> dict[str, Any]:
    if isinstance(genotype, Mapping) and "network" in genotype:
        return dict(genotype)
    if isinstance(genotype, Mapping) and "blocks" in genotype:
        blocks = genotype["blocks"]
        if isinstance(blocks, (list, tuple)) and blocks and all(isinstance(name, str) for name in blocks):
            return {"blocks": list(blocks)}
        raise KitError(f"a genotype of choice blocks is {{'blocks': [a name for every block]}}; got {genotype!r}")
    picks_of(dict(genotype) if isinstance(genotype, Mapping) else genotype)
    return {kind: [[(op, int(edge)) for op, edge in node] for node in genotype[kind]] for kind in KINDS}


def _stages(run: Run, genotype: Genotype) -> list[tuple[str, int]]:
    """(label, number of blocks) of each stage; [] where the space does not tell."""
    chain = CHAINS.get(str(getattr(run.config, "space", "")))
    if chain is None or "blocks" not in genotype:
        return []
    count = len(genotype["blocks"])
    for blocks in (count, count + 1):  # MobileNetV2's first block is counted and offers no choice
        stages = chain.plan(run.config.channels, blocks)[1]
        if sum(stage.blocks for stage in stages) == count:
            return [(f"stage {k}<br>{stage.width} channels", stage.blocks) for k, stage in enumerate(stages, start=1)]
    return []


# ---- one architecture ----------------------------------------------------------------------------


def _sheet(genotype: Genotype, title: str, stages: Sequence[tuple[str, int]] = ()) -> go.Figure:
    if "network" in genotype:
        return blank(f"{genotype['network']} is one fixed network without choices", title)
    if "blocks" in genotype:
        names = genotype["blocks"]
        return _compose([("", strip(names, list(dict.fromkeys(names)), stages))], title, STRIP, legend=True)
    drawn = [(KINDS[kind], graph(genotype[kind], axis)) for kind, axis in zip(KINDS, ("", "2"))]
    return _compose(drawn, title, CELL)


def _compose(
    drawn: Sequence[tuple[str, Drawing]],
    title: str,
    height: float,
    columns: int = 1,
    legend: bool = False,
    top: float = 0,
) -> go.Figure:
    """Drawings under one another, `columns` abreast; the k-th one's axes are numbered k. top: further pixels below the
    title.
    """
    rows = -(-len(drawn) // columns)
    plot = rows * height + (rows - 1) * GAP
    head = (64 if title else 20) + (30 if legend else 0) + (26 if any(heading for heading, _ in drawn) else 0) + top
    figure = go.Figure(
        layout={
            "template": TEMPLATE,
            "title": {"text": title},
            "height": plot + head + 20,
            "hovermode": "closest",
            "margin": {"l": 20, "r": 20, "b": 20, "t": head},
        }
    )
    notes: list[dict[str, Any]] = []
    for k, (heading, drawing) in enumerate(drawn):
        axis, row, column = "" if k == 0 else str(k + 1), k // columns, k % columns
        upper = 1 - row * (height + GAP) / plot
        x = [column / columns + (0.01 if column else 0), (column + 1) / columns - (0.01 if column + 1 < columns else 0)]
        figure.update_layout(
            {
                f"xaxis{axis}": {"visible": False, "range": drawing.x, "domain": x, "anchor": f"y{axis}"},
                f"yaxis{axis}": {
                    "visible": False,
                    "range": drawing.y,
                    "domain": [max(upper - height / plot, 0), min(upper, 1)],
                    "anchor": f"x{axis}",
                },
            }
        )
        figure.add_traces([*drawing.fixed, *drawing.moving])
        notes += drawing.notes
        place = {"x": x[0], "y": upper, "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
        notes += (
            [{"text": f"<b>{heading}</b>", "showarrow": False, "font": {"size": 14, "color": INK}, **place}]
            if heading
            else []
        )
    figure.update_layout(annotations=notes)
    if legend:
        _legend(figure)
    return figure


def _legend(figure: go.Figure) -> None:
    """The blocks' full names, which are wider than the boxes."""
    figure.for_each_trace(lambda trace: trace.update(showlegend=True), selector={"fill": "toself"})
    figure.update_layout(showlegend=True, legend=legend_below_title(figure.layout.height))


# ---- two architectures ---------------------------------------------------------------------------


def cells_compared(run_a: Run, run_b: Run) -> go.Figure:
    """Two runs' architectures beside each other: what they share is pale, what differs stands out. Cells are compared
    node by node and
    blocks place by place; two different spaces are both drawn, and the title says that they are not compared."""
    (a, when_a), (b, when_b) = found(run_a), found(run_b)
    names = [f"{_label(run)}{'' if run.finished else ' · so far'}" for run in (run_a, run_b)]
    if "normal" in a and "normal" in b:
        return _two_cells(a, b, names)
    if "blocks" in a and "blocks" in b and len(a["blocks"]) == len(b["blocks"]):
        return _two_strips(a["blocks"], b["blocks"], names, _stages(run_a, a))
    return _two_spaces((run_a, a), (run_b, b), names)


def _label(run: Run) -> str:
    accuracy = run.metrics.get("test_accuracy")
    return run.path.name + (f" · test accuracy {accuracy:.2%}" if accuracy is not None else "")


def _two_cells(a: Genotype, b: Genotype, names: Sequence[str]) -> go.Figure:
    drawn, words, number = [], [], 0
    for kind in KINDS:
        common = {
            node: Counter(map(tuple, a[kind][node])) & Counter(map(tuple, b[kind][node])) for node in range(NODES)
        }
        shared = sum(sum(counts.values()) for counts in common.values())
        words.append(f"{KINDS[kind]}: {shared} of {sum(map(len, a[kind]))} edges in common")
        for genotype, name in zip((a, b), names):
            pale = _shared(genotype[kind], common)
            every = {(node, k) for node, edges in enumerate(genotype[kind]) for k in range(len(edges))}
            axis, number = "" if number == 0 else str(number + 1), number + 1
            drawn.append(
                (f"{KINDS[kind]} · {name}", graph(genotype[kind], axis, short=True, pale=pale, marked=every - pale))
            )
    figure = _compose(drawn, f"{' · '.join(words)} (pale)", CELL, columns=2)
    return figure.update_annotations(font_size=12, selector={"yref": "paper"})


def _shared(nodes: Sequence[Sequence[tuple[str, int]]], common: Mapping[int, Counter]) -> set[tuple[int, int]]:
    pale = set()
    for node, edges in enumerate(nodes):
        left = common[node].copy()
        for k, edge in enumerate(map(tuple, edges)):
            if left[edge] > 0:
                left[edge] -= 1
                pale.add((node, k))
    return pale


def _two_strips(
    a: Sequence[str], b: Sequence[str], names: Sequence[str], stages: Sequence[tuple[str, int]]
) -> go.Figure:
    same = {k for k, (x, y) in enumerate(zip(a, b)) if x == y}
    ops = list(dict.fromkeys([*a, *b]))
    drawn = [
        (name, strip(blocks, ops, stages, axis, pale=same, marked=set(range(len(a))) - same))
        for name, blocks, axis in zip(names, (a, b), ("", "2"))
    ]
    figure = _compose(drawn, f"{len(same)} of {len(a)} blocks in common (pale)", STRIP, legend=True)
    drawn_once = set()
    for trace in figure.select_traces({"fill": "toself"}):
        trace.showlegend = trace.name not in drawn_once
        drawn_once.add(trace.name)
    return figure


def _two_spaces(one: tuple[Run, Genotype], other: tuple[Run, Genotype], names: Sequence[str]) -> go.Figure:
    """Each in full, its own way, with no edge compared."""
    drawn: list[tuple[str, Drawing]] = []
    for (run, genotype), name in zip((one, other), names):
        if "network" in genotype:
            axis = _next_axis(drawn)
            words = {
                "text": f"{genotype['network']} is one fixed network",
                "x": 0.5,
                "y": 0.5,
                "xref": f"x{axis}",
                "yref": f"y{axis}",
            }
            drawn.append(
                (
                    name,
                    Drawing(
                        [], [], [{**words, "showarrow": False, "font": {"size": 14, "color": GREY}}], [0, 1], [0, 1]
                    ),
                )
            )
        elif "blocks" in genotype:
            blocks = genotype["blocks"]
            drawn.append((name, strip(blocks, list(dict.fromkeys(blocks)), _stages(run, genotype), _next_axis(drawn))))
        else:
            for kind in KINDS:
                drawn.append((f"{KINDS[kind]} · {name}", graph(genotype[kind], _next_axis(drawn))))
    spaces = " and ".join(str(getattr(run.config, "space", "?")) for run, _ in (one, other))
    blocks = any("blocks" in genotype for _, genotype in (one, other))
    return _compose(
        drawn, f"Spaces {spaces} offer different choices: drawn side by side, not compared", CELL - 40, legend=blocks
    )


def _next_axis(drawn: Sequence[Any]) -> str:
    return str(len(drawn) + 1) if drawn else ""


# ---- over the epochs -----------------------------------------------------------------------------


def cells_animated(run: Run) -> go.Figure:
    """The child at every epoch (at most 60, both ends among them) with a slider: an edge's width is its share of |α|
    among the node's
    candidates, ◆ marks what is frozen. A run that does not search gets a note. Raises KitError where α is not
    recorded."""
    seen, method = need(run), method_of(run)
    if not seen.alpha and method is not None and not any(stage.search for stage in method.stages):
        return blank("the architecture is fixed in this run: see figures.cells", headline(run))
    if not seen.alpha:
        raise KitError(
            f"{run.path.name} has recorded no α over the epochs ({'; '.join(seen.missing) or run.status}): see figures.cells(run)"
        )
    places = thinned(len(seen.alpha["epoch"]), FRAMES)
    epochs = seen.alpha["epoch"][places].tolist()
    weights = shares(seen.alpha["alpha"])
    stages = _stages(run, _at(seen, -1))
    drawn = [_moment(seen, place, weights[place], stages) for place in places]
    height = CELL if seen.cells else STRIP
    words = "width: share of |α| · ◆ frozen" if seen.cells else "height: kernel · ◆ frozen"
    figure = _compose(
        drawn[-1], f"{headline(run)} · child by epoch ({words})", height, legend=not seen.cells, top=animation.CONTROLS
    )
    plot = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
    figure.update_layout(animation.controls(epochs, plot))
    headings = [note.to_plotly_json() for note in figure.select_annotations({"yref": "paper"})]
    changes, layouts = _moves(drawn, headings)
    figure.layout.annotations = layouts[-1][
        "annotations"
    ]  # in the frames' order: plotly merges each with the one at its place
    figure.frames = animation.frames(epochs, changes, layouts)
    return figure


def _moment(
    seen: Recorded, place: int, weights: np.ndarray, stages: Sequence[tuple[str, int]]
) -> list[tuple[str, Drawing]]:
    """The child at a place of α's arrays. weights: float [slots, widest]."""
    frozen = seen.alpha["frozen"][place].astype(bool)
    genotype = _at(seen, place)
    if not seen.cells:
        ops = list(dict.fromkeys(op for slot in seen.slots for op, _ in slot.candidates))
        return [("", strip(genotype["blocks"], ops, stages, frozen=set(np.nonzero(frozen)[0].tolist())))]
    drawn = []
    for kind, axis, first in zip(KINDS, ("", "2"), (0, NODES)):
        picks = [[c for c in seen.picked[first + node][place] if c >= 0] for node in range(NODES)]
        widths = {
            (node, k): 1.5 + 14 * float(weights[first + node, c])
            for node, chosen in enumerate(picks)
            for k, c in enumerate(chosen)
        }
        still = set(np.nonzero(frozen[first : first + NODES])[0].tolist())
        drawing = graph(genotype[kind], axis, widths=widths, frozen=still)
        lacks = sum(slot.takes for slot in seen.slots[first : first + NODES]) - len(drawing.moving)
        # every frame moves the same traces and notes
        drawing.moving += [{"type": "scatter", "x": [None], "y": [None]}] * lacks
        drawing.notes += [
            {
                "text": " ",
                "x": 0,
                "y": 0,
                "xref": f"x{axis}",
                "yref": f"y{axis}",
                "showarrow": False,
                "bgcolor": "white",
            }
        ] * lacks
        drawn.append((KINDS[kind], drawing))
    return drawn


def _moves(
    moments: Sequence[Sequence[tuple[str, Drawing]]], headings: Sequence[Mapping[str, Any]]
) -> tuple[list[Any], list[Any]]:
    """(what changes of the traces, of the layout) in every frame."""
    changes, layouts = [], []
    for moment in moments:
        number, change = 0, {}
        for _, drawing in moment:
            number += len(drawing.fixed)
            change |= {number + k: trace for k, trace in enumerate(drawing.moving)}
            number += len(drawing.moving)
        changes.append(change)
        layouts.append({"annotations": [*(note for _, drawing in moment for note in drawing.notes), *headings]})
    return changes, layouts
