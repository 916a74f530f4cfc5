"""τ: what the augmentation policy prefers."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from kit import augment
from kit.figures.style import GREY, INK, LOW_TO_HIGH, PALETTE, TEMPLATE, blank, by_epoch, headline
from kit.run.run import Run

RATIOS = (1, 1.02, 1.05, 1.1, 1.25, 1.5, 2, 3, 5, 10, 20, 50, 100)  # ticks of the colours, and their inverses
CAP = 100.0  # colours end here: a policy that has collapsed onto one pair is legible too


def policy(run: Run) -> go.Figure:
    """τ at the last epoch: probability of each ordered pair over that of a uniform policy, with the marginals of first
    and second operation.

    Colours are logarithmic and symmetric about 1, so that half and twice as probable are equally strong. A fixed policy
    gets a note.
    """
    recorded = run.tau
    if not recorded:
        return blank(
            f"τ is fixed in this run (augment = {run.config.augment}): there is no learned policy to draw",
            headline(run),
        )
    p, epoch, ops = recorded["probabilities"][-1].astype(float), int(recorded["epoch"][-1]), _ops(run)
    figure = go.Figure(layout={"template": TEMPLATE, "height": 800, "margin": {"t": 70, "b": 110, "l": 120}})
    figure.add_trace(_heat(p, ops))
    first, second = p.sum(axis=1), p.sum(axis=0)
    figure.add_trace(_bars(x=ops, y=(second * 100).tolist(), name="second operation", yaxis="y2"))
    figure.add_trace(_bars(x=(first * 100).tolist(), y=ops, name="first operation", xaxis="x2", orientation="h"))
    _axes(figure, first, second)
    figure.update_layout(title_text=f"{headline(run)} · τ {_distance(run, epoch)}")
    return figure


def _distance(run: Run, epoch: int) -> str:
    if not epoch:
        return "at the start"
    moved = by_epoch(run).loc[epoch, "tau/kl_from_uniform"]
    return f"after epoch {epoch}: {moved:.3g} nats from uniform"


def _ops(run: Run) -> list[str]:
    """The operations' names; a run that has no model yet uses the papers' list."""
    return list(run.policy["ops"]) if run.finished else list(augment.OPS)


def _heat(p: np.ndarray, ops: list[str]) -> go.Heatmap:
    ratio = p * p.size
    z = np.log2(np.maximum(ratio, 1e-6))
    limit = min(max(float(np.abs(z).max()), 0.05), float(np.log2(CAP)))
    at = ticks(limit)
    names = [f"{2**t:.2g}×" if t < 0 else f"{2**t:.3g}×" for t in at]
    bar = {
        "title": {"text": "probability<br>÷ uniform", "side": "top", "font": {"size": 12}},
        "tickvals": at,
        "ticktext": names,
        "x": 1.01,
        "y": 0.0,
        "yanchor": "bottom",
        "len": 0.8,
        "thickness": 16,
        "outlinewidth": 0,
    }
    return go.Heatmap(
        z=z.tolist(),
        x=ops,
        y=ops,
        zmin=-limit,
        zmax=limit,
        colorscale=LOW_TO_HIGH,
        colorbar=bar,
        xgap=1,
        ygap=1,
        customdata=np.stack([p * 100, ratio], axis=-1).tolist(),
        hovertemplate="first %{y}, then %{x}<br>%{customdata[0]:.3f}% (%{customdata[1]:.3f} × uniform)<extra></extra>",
    )


def ticks(limit: float) -> list[float]:
    """log₂ of round ratios up to the limit on both sides of 1, far enough apart to be read."""
    chosen = [0.0]
    for ratio in RATIOS:
        if np.log2(ratio) <= limit * 1.001 and np.log2(ratio) - chosen[-1] >= limit / 4.5:
            chosen.append(float(np.log2(ratio)))
    return [-t for t in chosen[:0:-1]] + chosen


def _bars(**where: object) -> go.Bar:
    return go.Bar(**where, marker={"color": PALETTE["sky"]}, showlegend=False, hovertemplate="%{x} %{y}<extra></extra>")


def _axes(figure: go.Figure, first: np.ndarray, second: np.ndarray) -> None:
    uniform, top = 100 / len(first), float(max(first.max(), second.max())) * 115
    rule = {"type": "line", "line": {"color": INK, "width": 1, "dash": "dash"}}
    figure.update_layout(
        xaxis={
            "domain": [0, 0.8],
            "anchor": "y",
            "title": {"text": "second operation"},
            "tickangle": -45,
            "showgrid": False,
        },
        yaxis={
            "domain": [0, 0.8],
            "anchor": "x",
            "title": {"text": "first operation"},
            "autorange": "reversed",
            "showgrid": False,
        },
        yaxis2={"domain": [0.83, 1], "anchor": "x", "title": {"text": "share [%]"}, "range": [0, top]},
        xaxis2={"domain": [0.83, 0.99], "anchor": "y", "title": {"text": "share [%]"}, "range": [0, top]},
        bargap=0.25,
    )
    figure.add_shape(**rule, xref="x domain", yref="y2", x0=0, x1=1, y0=uniform, y1=uniform)
    figure.add_shape(**rule, xref="x2", yref="y domain", x0=uniform, x1=uniform, y0=0, y1=1)
    figure.add_annotation(
        text=f"dashed: uniform, {uniform:.1f}%",
        xref="paper",
        yref="paper",
        x=0.83,
        y=0.98,
        xanchor="left",
        showarrow=False,
        font={"size": 12, "color": GREY},
    )
