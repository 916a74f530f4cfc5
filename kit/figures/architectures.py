"""α: how the candidates of every slot compete over the epochs."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kit.errors import KitError
from kit.figures.recorded import POINTS, Recorded, need, thinned
from kit.figures.style import (
    INK,
    TEMPLATE,
    blank,
    headline,
    legend_below_title,
    mark_stages,
    method_of,
    op_color,
    op_title,
)
from kit.run.run import Run
from kit.space.cell import NODES
from kit.space.network import Slot

KIND_TITLES = {"normal": "normal cell", "reduce": "reduction cell"}
BLOCK_COLUMNS = 5
HEAD, FOOT, GAP = 145, 60, 88  # pixels: above the first row of panels, below the last, between two


def architecture(run: Run) -> go.Figure:
    """|α| of every candidate over the epochs, one panel per slot: thin while it competes, bold while the child uses it.

    Colours are the operations'; a panel's title names what is chosen at the last epoch. At most 240 epochs are drawn,
    both ends among them.
    A run that does not search gets a note. Raises KitError where nothing is recorded.
    """
    method = method_of(run)
    if method is not None and not any(stage.search for stage in method.stages):
        return blank(
            f"α is fixed in this run (arch = {run.config.arch}, space = {run.config.space}): see figures.cells",
            headline(run),
        )
    seen = need(run)
    if not seen.alpha:
        raise KitError(
            f"{run.path.name} has not recorded α ({'; '.join(seen.missing) or run.status}), so there is no competition to draw"
        )
    columns = NODES if seen.cells else min(BLOCK_COLUMNS, len(seen.slots))
    rows = -(-len(seen.slots) // columns)
    panel = 208 if rows <= 2 else 130
    plot = rows * panel + (rows - 1) * GAP
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=[_panel_title(seen, i) for i in range(len(seen.slots))],
        horizontal_spacing=0.18 / columns,
        vertical_spacing=GAP / plot if rows > 1 else 0,
    )
    figure.update_annotations(font={"size": 12}, yshift=16)
    at = thinned(len(seen.alpha["epoch"]), POINTS)
    for i, slot in enumerate(seen.slots):
        axis = "" if i == 0 else str(i + 1)
        figure.add_traces(
            [{**trace, "xaxis": f"x{axis}", "yaxis": f"y{axis}"} for trace in _candidates(seen, slot, i, at)]
        )
        mark_stages(figure, seen.spans, f"x{axis}", f"y{axis}", label=i < columns)
        _mark_freeze(figure, seen, i, axis)
    for op in dict.fromkeys(op for slot in seen.slots for op, _ in slot.candidates):
        figure.add_trace(
            go.Scatter(
                x=[None],
                y=[None],
                mode="lines",
                name=op_title(op),
                legendgroup=op,
                line={"color": op_color(op), "width": 4},
            )
        )
    _finish(figure, seen, plot + HEAD + FOOT, columns)
    return figure


def _finish(figure: go.Figure, seen: Recorded, height: float, columns: int) -> None:
    top = max(float(np.abs(seen.alpha["alpha"]).max()) * 1.08, 1e-9)
    figure.update_xaxes(matches="x", range=[0, max(int(seen.alpha["epoch"].max()), 1)])
    figure.update_yaxes(matches="y", range=[0, top])
    figure.update_layout(xaxis_matches=None, yaxis_matches=None)  # the first axes are those that the others match
    for i in range(max(0, len(seen.slots) - columns), len(seen.slots)):
        figure.update_layout({f"xaxis{'' if i == 0 else i + 1}": {"title": {"text": "epoch"}}})
    figure.update_yaxes(title_text="|α|", col=1)
    slot = "node" if seen.cells else "block"
    figure.update_layout(
        template=TEMPLATE,
        height=height,
        title_text=f"{headline(seen.run)} · α (bold: in the child; ◆: the {slot} freezes)",
        margin={"t": HEAD, "b": FOOT},
        legend=legend_below_title(height),
    )


def _panel_title(seen: Recorded, i: int) -> str:
    slot, used = seen.slots[i], seen.picked[i][-1]
    kind, place = slot.name.split("/")
    if not seen.cells:
        return f"<b>block {i}</b><br>" + "<br>".join(op_title(slot.candidates[c][0]) for c in used if c >= 0)
    sources = ("cₖ₋₂", "cₖ₋₁", *(f"node {k}" for k in range(NODES)))
    chosen = [f"{op_title(slot.candidates[c][0])} ← {sources[slot.candidates[c][1]]}" for c in sorted(used) if c >= 0]
    return f"<b>{KIND_TITLES[kind]}, node {place}</b><br>" + "<br>".join(chosen)


def _candidates(seen: Recorded, slot: Slot, i: int, at: list[int]) -> list[dict]:
    """Two traces per operation: all its candidates thin, and bold where one is in the support; gaps between
    candidates.
    """
    epochs = np.append(seen.alpha["epoch"][at], 0).astype(np.float32)
    alpha = np.abs(seen.alpha["alpha"][at, i])
    support = np.zeros(alpha.shape, dtype=bool)
    for column in seen.picked[i][at].T:
        support[np.nonzero(column >= 0)[0], column[column >= 0]] = True
    traces = []
    for op in dict.fromkeys(op for op, _ in slot.candidates):
        columns = [c for c, (name, _) in enumerate(slot.candidates) if name == op]
        for bold in (False, True):
            drawn = (
                support[:, columns]
                if bold
                else np.broadcast_to(alpha[:, columns].max(axis=0) > 1e-9, alpha[:, columns].shape)
            )
            kept = drawn.any(axis=0)
            values = np.where(drawn, alpha[:, columns], np.nan)[:, kept]
            if kept.any():
                y = np.concatenate([values, np.full((1, kept.sum()), np.nan)]).T.ravel().astype(np.float32)
                few = bold and len(at) <= 40
                look = {
                    "line": {"color": op_color(op), "width": 3 if bold else 1},
                    **({"marker": {"size": 5}} if few else {}),
                }
                traces.append(
                    {
                        "type": "scatter",
                        "x": np.tile(epochs, kept.sum()),
                        "y": y,
                        "mode": "lines+markers" if few else "lines",
                        **look,
                        "opacity": 1.0 if bold else 0.45,
                        "name": op_title(op),
                        "legendgroup": op,
                        "showlegend": False,
                    }
                )
    return traces


def _mark_freeze(figure: go.Figure, seen: Recorded, i: int, axis: str) -> None:
    frozen = seen.alpha["frozen"][:, i].astype(bool)
    if frozen.any():
        figure.add_annotation(
            text="◆",
            x=int(seen.alpha["epoch"][frozen.argmax()]),
            y=0,
            xref=f"x{axis}",
            yref=f"y{axis} domain",
            yanchor="bottom",
            showarrow=False,
            font={"size": 13, "color": INK},
        )
