"""What the panel shows of a run, as figures: curves, τ, augmented images, cells. Each shows what is there so far."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from kit import figures, space
from kit.figures.style import blank
from kit.lab.live import samples
from kit.run.run import Run
from kit.search import build as compose

VIEWS = ("curves", "policy", "samples", "cells")
SHRUNK, LEAST = {"curves": 0.75, "cells": 0.7}, 320  # of their own height, and pixels
COMPACT: dict[str, dict[str, Any]] = {
    "curves": {"margin": {"t": 92, "b": 48}},
    "policy": {"title": {"text": "τ: probability of each pair (dashed: uniform)"}, "margin": {"t": 72}},
    "samples": {"height": 560},
    "cells": {"margin": {"t": 62}},
}


def views(run: Run, compact: bool = False) -> dict[str, go.Figure]:
    """One figure per name of VIEWS; one that cannot be drawn (yet) says why. compact: to be seen together, τ and
    samples side by side.
    """
    makers = {"curves": figures.curves, "policy": figures.policy, "samples": samples.augmented, "cells": cells}
    drawn = {name: _attempt(makers[name], run) for name in VIEWS}
    if compact:
        for name, figure in drawn.items():
            if figure.data:  # not a note
                _shrink(name, figure)
    return drawn


def _shrink(name: str, figure: go.Figure) -> None:
    figure.update_layout(COMPACT[name], title_font_size=15)
    if name in SHRUNK and figure.layout.height:
        figure.layout.height = max(figure.layout.height * SHRUNK[name], min(figure.layout.height, LEAST))


def _attempt(make: Any, run: Run) -> go.Figure:
    # anything may be wrong with a run of another version: one view must not take the others with it
    try:
        return make(run)
    except Exception as error:
        return blank(f"{'' if isinstance(error, ValueError) else type(error).__name__ + ': '}{error}")


def cells(run: Run) -> go.Figure:
    """The architecture that stands at the last epoch, or that the configuration gives: before the end, a run records
    none of the latter.
    """
    config = run.config
    if run.finished or config.arch != "given":
        return figures.cells(run)
    if not space.SEARCHABLE[config.space]:
        return blank(f"{config.space} is one fixed network without cells to choose")
    name = config.genotype or space.USUAL[config.space]
    return figures.cell(compose.read_genotype(name), f"The given architecture: {name}")
