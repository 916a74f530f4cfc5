"""How learners concentrate on what is planted (`kit.planted`)."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from kit.figures.style import PALETTE, TEMPLATE, legend_below_title

SERIES = list(PALETTE.values())


def planted(curves: dict[str, list[list[float]]], steps: int, title: str) -> go.Figure:
    """curves: of `kit.planted.watch`; the mean over seeds as a line, each seed as a thin one."""
    figure, height = go.Figure(), 460
    for i, (name, seeds) in enumerate(curves.items()):
        x, color = np.linspace(0, steps, len(seeds[0])), SERIES[i % len(SERIES)]
        for curve in seeds:
            figure.add_scatter(
                x=x,
                y=curve,
                mode="lines",
                line={"color": color, "width": 0.7},
                opacity=0.4,
                showlegend=False,
                hoverinfo="skip",
            )
        figure.add_scatter(
            x=x,
            y=np.mean(seeds, axis=0),
            mode="lines",
            name=f"{name} (n={len(seeds)})",
            line={"color": color, "width": 3},
        )
    figure.add_hline(y=0.8, line={"color": "#888888", "width": 1, "dash": "dot"})
    figure.update_layout(
        template=TEMPLATE,
        title=title,
        height=height,
        legend=legend_below_title(height),
        margin={"t": 100},
        xaxis_title="step",
        yaxis={"title": "probability on what is planted", "range": [0, 1.02]},
    )
    return figure
