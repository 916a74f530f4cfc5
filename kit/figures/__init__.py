# ruff: noqa: F401
"""Figures from runs and tables: every function returns a plotly figure, `show` displays it in a notebook, `save_all`
writes figures as PNG. They draw what the run directory holds and compute no results."""

from kit.figures.cells import cell, cells, cells_compared
from kit.figures.landscape import contours as landscape_contours
from kit.figures.landscape import lines as landscape_lines
from kit.figures.landscape import surfaces as landscape_surfaces
from kit.figures.many import ablation, accuracy_against_time, overlay, planted, tradeoffs, under_limits
from kit.figures.run import architecture, curves, evolution, policy, standing, tau_evolution
from kit.figures.show import png, predictions, save_all, show, why_no_png
from kit.figures.style import TEMPLATE, blank, look
