"""α, τ and η together while they move: every curve of a run on one epoch axis, with the policy at the slider's epoch;
several runs overlaid.
"""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from kit.figures import animation, evolution_tau, panels
from kit.figures.evolution_many import overlaid
from kit.figures.evolution_panels import alpha_panel, hyper_panels, loss_panel, picks_panel, skip_panel
from kit.figures.panels import Column, Panel
from kit.figures.recorded import FRAMES, Recorded, need, thinned
from kit.figures.style import INK, TEMPLATE, headline, legend_below_title
from kit.run.run import Run

MAP = 330  # pixels of τ's heat map
TOP, BOTTOM = 98, 60  # margins, without the slider


def evolution(runs: Run | Sequence[Run]) -> go.Figure:
    """One run: loss, every learned hyper-parameter (learned and effective value), τ's entropy, α's entropy, the cells'
    skips and the
    operations that each node uses, on one epoch axis; beside them τ's heat map at the slider's epoch and its marginals
    over the epochs.
    Several runs: the same curves overlaid, and what cannot be compared in words.

    Curves have at most 240 points and the slider at most 60 epochs, both ends among them; the run's records are not
    touched. A run that
    is still going or has failed is drawn up to where it is. Raises KitError where nothing is recorded, or for no runs.
    """
    if not isinstance(runs, Run):
        found = list(runs)
        if len(found) != 1:
            return overlaid(found)
        runs = found[0]
    seen = need(runs)
    left = [
        panel
        for panel in (
            loss_panel(seen),
            *hyper_panels(seen),
            evolution_tau.entropy_panel(seen),
            alpha_panel(seen),
            skip_panel(seen),
            picks_panel(seen),
        )
        if panel
    ]
    if "probabilities" in seen.tau:
        return _with_tau(seen, left)
    figure, tall = go.Figure(layout={"template": TEMPLATE}), panels.stacked(left)
    panels.add(figure, left, Column(0, 1), tall, seen.spans, seen.last, cursor=False)
    _finish(figure, seen, tall, 0, _still(seen))
    return figure


def _with_tau(seen: Recorded, left: list[Panel]) -> go.Figure:
    figure = go.Figure(layout={"template": TEMPLATE})
    under = MAP + 92 + panels.GAP  # where the marginals begin: below the map's names
    right = evolution_tau.marginal_panels(seen, panels.stacked(left) - under - panels.GAP)
    tall = max(panels.stacked(left), under + panels.stacked(right))
    end = animation.controls(seen.tau["epoch"][thinned(len(seen.tau["epoch"]), FRAMES)].tolist(), tall)
    pairs = evolution_tau.add_pairs(figure, seen, (0.655, 0.945), (1.0, 1 - MAP / tall), 0.953, "x30", "y30")
    left_space = (tall - panels.stacked(left)) / max(len(left) - 1, 1)
    cursors = panels.add(figure, left, Column(0, 0.53), tall, seen.spans, seen.last, gap=panels.GAP + left_space)
    cursors += panels.add(
        figure, right, Column(0.655, 0.945, "x2", 20, under), tall, seen.spans, seen.last, label=False
    )
    figure.update_layout(xaxis2={"matches": "x"}, **end)
    figure.add_annotation(
        text="<b>τ: pairs of operations</b>",
        x=0.655,
        xanchor="left",
        xref="paper",
        y=1,
        yanchor="bottom",
        yref="paper",
        yshift=12,
        showarrow=False,
        font={"size": 13, "color": INK},
    )
    evolution_tau.animate(figure, seen, cursors, [pairs])
    _finish(figure, seen, tall, animation.CONTROLS, "")
    return figure


def _still(seen: Recorded) -> str:
    return "" if seen.tau else " · τ is not recorded" if "τ" in seen.missing else " · τ is fixed"


def _finish(figure: go.Figure, seen: Recorded, tall: float, controls: float, note: str) -> None:
    height = tall + TOP + controls + BOTTOM
    figure.update_layout(
        height=height,
        margin={"t": TOP + controls, "b": BOTTOM, "l": 90, "r": 50},
        title_text=f"{headline(seen.run)}{note}",
        legend=legend_below_title(height),
        showlegend=True,
    )
