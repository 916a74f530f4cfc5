"""α: which candidates compete, and the cells that were found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kit.errors import KitError
from kit.figures.style import GREY, INK, TEMPLATE, blank, headline, legend_below_title, mark_stages, op_color, op_title
from kit.run import Run
from kit.space.cell import INPUTS, NODES, cell_slots, check_genotype
from kit.space.network import Slot

KINDS = ("normal", "reduce")
KIND_TITLES = {"normal": "normal cell", "reduce": "reduction cell"}
SOURCES = ("cₖ₋₂", "cₖ₋₁", *(str(node) for node in range(NODES)))


def architecture(run: Run) -> go.Figure:
    """|α| of every candidate over the epochs, one panel per node: thin while it competes, bold while the child uses it.

    Colours are the operations'; a panel's title names what is chosen at the last epoch. A run that does not search gets a note.
    """
    recorded = run.alpha
    if not any(stage.search for stage in run.config.composition.stages):
        return blank(f"α is fixed in this run (arch = {run.config.arch}, space = {run.config.space}): see figures.cell", headline(run))
    if not recorded:
        raise KitError(f"{run.path.name} has no completed epoch to draw yet ({run.status})")
    slots = cell_slots()
    titles = [_panel_title(slot, recorded["support"][-1, i]) for i, slot in enumerate(slots)]
    figure = make_subplots(len(KINDS), NODES, subplot_titles=titles, horizontal_spacing=0.045, vertical_spacing=0.2)
    figure.update_annotations(font={"size": 12}, yshift=16)
    for i, slot in enumerate(slots):
        for trace in _candidates(slot, recorded, i):
            figure.add_trace(trace, i // NODES + 1, i % NODES + 1)
        mark_stages(figure, run, axis="" if i == 0 else str(i + 1), label=i < NODES)
        _mark_freeze(figure, recorded["frozen"][:, i], recorded["epoch"], i)
    for op in dict.fromkeys(op for slot in slots for op, _ in slot.candidates):
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="lines", name=op_title(op), legendgroup=op, line={"color": op_color(op), "width": 4}))
    _finish(figure, run, recorded)
    return figure


def _finish(figure: go.Figure, run: Run, recorded: Mapping[str, np.ndarray]) -> None:
    top = float(np.abs(recorded["alpha"]).max()) * 1.08
    figure.update_xaxes(matches="x", range=[0, int(recorded["epoch"].max())])
    figure.update_yaxes(matches="y", range=[0, top])
    figure.update_xaxes(title_text="epoch", row=len(KINDS))
    figure.update_yaxes(title_text="|α|", col=1)
    figure.update_layout(template=TEMPLATE, height=720, title_text=f"{headline(run)} · α (bold: in the child; ◆: the node freezes)",
                         margin={"t": 145, "b": 60}, legend=legend_below_title(720))  # fmt: skip


def _panel_title(slot: Slot, support: np.ndarray) -> str:
    kind, node = slot.name.split("/")
    sources = (*SOURCES[:INPUTS], *(f"node {k}" for k in range(NODES)))
    chosen = [f"{op_title(op)} ← {sources[edge]}" for (op, edge), used in zip(slot.candidates, support) if used]
    return f"<b>{KIND_TITLES[kind]}, node {node}</b><br>" + "<br>".join(chosen)


def _candidates(slot: Slot, recorded: Mapping[str, np.ndarray], i: int) -> list[go.Scatter]:
    """Two traces per operation: all its candidates thin, and bold where one is in the support; gaps between candidates."""
    epochs = recorded["epoch"].tolist()
    alpha, support = np.abs(recorded["alpha"][:, i]), recorded["support"][:, i]
    traces = []
    for op in dict.fromkeys(op for op, _ in slot.candidates):
        columns = [c for c, (name, _) in enumerate(slot.candidates) if name == op]
        for bold in (False, True):
            x: list[Any] = []
            y: list[float | None] = []
            for c in columns:
                drawn = support[:, c] if bold else np.full(len(epochs), alpha[:, c].max() > 1e-9)
                if drawn.any():
                    x += [*epochs, None]
                    y += [float(value) if here else None for value, here in zip(alpha[:, c], drawn)] + [None]
            if x:
                look = {"line": {"color": op_color(op), "width": 3}, "marker": {"size": 5}} if bold else {"line": {"color": op_color(op), "width": 1}}
                traces.append(go.Scatter(x=x, y=y, mode="lines+markers" if bold else "lines", opacity=1.0 if bold else 0.45, **look,
                                         name=op_title(op), legendgroup=op, showlegend=False))  # fmt: skip
    return traces


def _mark_freeze(figure: go.Figure, frozen: np.ndarray, epochs: np.ndarray, i: int) -> None:
    if frozen.any():
        axis = "" if i == 0 else str(i + 1)
        figure.add_annotation(text="◆", x=int(epochs[frozen.argmax()]), y=0, xref=f"x{axis}", yref=f"y{axis} domain", yanchor="bottom",
                              showarrow=False, font={"size": 13, "color": INK})  # fmt: skip


# ---- cells -------------------------------------------------------------------------------------------------------------------
# Every edge has a row of its own and its operation's name stands just before the node that it enters; nodes stand between the rows of
# their two edges. So neither names nor nodes can overlap, also when a node takes one input through two operations.

REACH = 0.42  # of a column: how far right of its source an edge turns into its row


def cell(genotype: Mapping[str, Any], title: str = "") -> go.Figure:
    """A genotype's normal and reduction cell, left to right: the two cells before, nodes 0 to 3, concatenation.

    genotype: as `run.genotype`. A fixed network gets a note. Raises KitError for what is not a genotype.
    """
    if isinstance(genotype, Mapping) and "network" in genotype:
        return blank(f"{genotype['network']} is one fixed network without cells to choose", title)
    check_genotype(dict(genotype) if isinstance(genotype, Mapping) else genotype)
    figure = make_subplots(len(KINDS), 1, subplot_titles=[f"<b>{KIND_TITLES[kind]}</b>" for kind in KINDS], vertical_spacing=0.08)
    figure.update_annotations(font={"size": 14}, x=0, xanchor="left")
    for k, kind in enumerate(KINDS):
        _draw_cell(figure, genotype[kind], "" if k == 0 else str(k + 1))
    figure.update_xaxes(visible=False, range=[-1.25, NODES + 0.35])
    figure.update_yaxes(visible=False)
    figure.update_layout(template=TEMPLATE, height=720, title_text=title, margin={"l": 20, "r": 20, "b": 15, "t": 85 if title else 40})
    return figure


def _draw_cell(figure: go.Figure, nodes: Sequence[Sequence[Sequence[Any]]], axis: str) -> None:
    rows, row = [], 0.0
    for entries in nodes:
        rows.append([-(row + k) for k in range(len(entries))])
        row += len(entries) + 0.35
    middle = -(row - 1.35) / 2
    places = {0: (-1.0, middle + row * 0.22), 1: (-1.0, middle - row * 0.22)}
    places |= {INPUTS + node: (float(node), sum(mine) / len(mine)) for node, mine in enumerate(rows)}
    end = (NODES + 0.0, middle)
    where = {"xaxis": f"x{axis}", "yaxis": f"y{axis}"}
    for node in range(NODES):
        figure.add_trace(_curve(places[INPUTS + node], end, end[0] - 0.4, "#B5B5B5", 1.5, "concatenated", **where))
    for node, entries in enumerate(nodes):
        for (op, edge), y in zip(entries, rows[node]):
            _draw_edge(figure, op, places[int(edge)], places[INPUTS + node], y, where)
    for index, (x, y) in places.items():
        _box(figure, SOURCES[index], x, y, "#F2F2F2", INK, axis, bold=True)
    _box(figure, "cₖ", *end, "#F2F2F2", INK, axis, bold=True)
    figure.update_layout({f"yaxis{axis}": {"range": [-(row - 0.75), 0.6]}})


def _draw_edge(figure: go.Figure, op: str, source: tuple[float, float], target: tuple[float, float], y: float, where: dict[str, str]) -> None:
    color, at = op_color(op), target[0] - 0.36
    figure.add_trace(_curve(source, (at, y), source[0] + REACH, color, 2.5, op_title(op), **where))
    figure.add_trace(_curve((at, y), target, target[0] - 0.02, color, 2.5, op_title(op), start=at + 0.18, **where))
    dark = sum(int(color[i : i + 2], 16) * weight for i, weight in ((1, 0.299), (3, 0.587), (5, 0.114))) < 140
    _box(figure, op_title(op), at, y, color, "white" if dark else "black", where["xaxis"][1:])


def _curve(source: tuple[float, float], target: tuple[float, float], turned: float, color: str, width: float, name: str,
           start: float | None = None, **where: str) -> go.Scatter:  # fmt: skip
    """From source to target: an S between x = start (default: the source) and x = turned, straight on before and after."""
    begin = source[0] if start is None else start
    if start is None and turned < target[0] - 0.3 and turned > source[0] + REACH:
        begin = turned - 0.5
    t = np.linspace(0, 1, 24)
    x = np.concatenate([[source[0]], begin + (turned - begin) * t, [target[0]]])
    y = np.concatenate([[source[1]], source[1] + (target[1] - source[1]) * (3 * t**2 - 2 * t**3), [target[1]]])
    return go.Scatter(x=x.round(4).tolist(), y=y.round(4).tolist(), mode="lines", line={"color": color, "width": width}, name=name,
                      showlegend=False, hoverinfo="name", **where)  # fmt: skip


def _box(figure: go.Figure, text: str, x: float, y: float, fill: str, ink: str, axis: str, bold: bool = False) -> None:
    figure.add_annotation(text=f"<b>{text}</b>" if bold else text, x=x, y=y, xref=f"x{axis}", yref=f"y{axis}", showarrow=False, bgcolor=fill,
                          bordercolor=GREY if bold else fill, borderwidth=1, borderpad=5 if bold else 3,
                          font={"size": 15 if bold else 12, "color": ink})  # fmt: skip
