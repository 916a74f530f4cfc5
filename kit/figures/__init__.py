"""Figures from runs and tables. They draw what the run directory holds and compute no results.

Every function returns a plotly figure: `show` displays it in a notebook, `png` makes the static twin without a browser.
"""

from kit.figures.architectures import architecture
from kit.figures.augmentation import policy
from kit.figures.cell_sheets import cell, cells, cells_animated, cells_compared
from kit.figures.compare import agreement, tradeoffs
from kit.figures.comparison import ablation, accuracy_against_time
from kit.figures.display import show
from kit.figures.epochs import curves, overlay
from kit.figures.evolution_many import comparable
from kit.figures.evolution_one import evolution
from kit.figures.evolution_tau import tau_evolution
from kit.figures.landscape import (
    contours as landscape_contours,
)
from kit.figures.landscape import (
    lines as landscape_lines,
)
from kit.figures.landscape import (
    show_surfaces,
)
from kit.figures.landscape import (
    surfaces as landscape_surfaces,
)
from kit.figures.pictures import predictions
from kit.figures.planted import planted
from kit.figures.recorded import standing
from kit.figures.static import png
from kit.figures.style import OP_COLORS, PALETTE, TEMPLATE, method_look

__all__ = [
    "OP_COLORS",
    "PALETTE",
    "TEMPLATE",
    "ablation",
    "accuracy_against_time",
    "agreement",
    "architecture",
    "cell",
    "cells",
    "cells_animated",
    "cells_compared",
    "comparable",
    "curves",
    "evolution",
    "landscape_contours",
    "landscape_lines",
    "landscape_surfaces",
    "method_look",
    "overlay",
    "planted",
    "png",
    "policy",
    "predictions",
    "show",
    "show_surfaces",
    "standing",
    "tau_evolution",
    "tradeoffs",
]
