# ruff: noqa: F401, I001
"""Figures from runs and tables: every function returns a plotly figure, `show` displays it in a notebook, `save_all`
writes figures as PNG. They draw what the run directory holds and compute no results."""

from kit.figures.cells import cell, cells, cells_compared
from kit.figures.many import ablation, accuracy_against_time, overlay, parallel, planted, progress, tradeoffs
from kit.figures.many import under_limits
from kit.figures.many import landscape_contours, landscape_lines, landscape_surfaces, landscape_trajectory
from kit.figures.run import architecture, confusion, curves, evolution, policy, predictions, samples, standing
from kit.figures.run import tau_evolution
from kit.figures.style import TEMPLATE, Formats, blank, look, png, save_all, show, why_no_png
