"""What the dashboard shows of a run: curves of loss, accuracy, η, τ and α, the heat map of τ, the cells that stand, and
augmented images.
"""

from __future__ import annotations

import base64
import functools
import html
import io
from collections.abc import Callable

import numpy as np
import plotly.express as px
import plotly.graph_objects as go
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from kit import augment, data, figures
from kit.errors import KitError
from kit.run.run import Run

PANELS = {  # of the history's names: (panel, line)
    "loss": ("loss", "train"),
    "val_loss": ("loss", "val"),
    "train_accuracy": ("accuracy", "train"),
    "val_accuracy": ("accuracy", "val"),
    "eta/lr": ("η: learning rate", "η"),
    "eta/weight_decay": ("η: weight decay", "η"),
    "tau/entropy": ("τ: entropy", "τ"),
    "alpha/entropy": ("α: entropy", "α"),
    "alpha/frozen": ("α: frozen nodes", "α"),
}
LOOK = {"facet_col_spacing": 0.07, "facet_row_spacing": 0.18, "template": "plotly_white"}
WIDTH = 800  # pixels: a live figure does not follow its page's width, and this fits a small one
COLUMNS, ROWS = 5, 3  # ROWS: of augmented images under each original


def show(run: Run) -> None:
    """Display the figures as outputs of the current cell."""
    for make in (figures.curves, figures.policy, figures.cells):
        figures.show(drawn(make, run))


def drawn(make: Callable[[Run], go.Figure], run: Run) -> go.Figure:
    """What is there so far; a figure that cannot be drawn (yet) says why."""
    try:
        figure = make(run)
    except Exception as error:  # the run may save an epoch between two reads; one view must not take the others with it
        figure = go.Figure(layout={"title": {"text": str(error), "font": {"size": 13}}, "height": 60, "width": WIDTH})
    return figure.update_layout(title_text=figure.layout.title.text or "")  # else that of the drawing before stays


def curves(run: Run) -> go.Figure:
    """A panel per quantity, by completed epoch."""
    rows = run.history[run.history["name"].isin(list(PANELS))].copy()
    if rows.empty:
        raise KitError("no epoch is completed yet")
    rows[["panel", "line"]] = rows["name"].map(PANELS).tolist()
    rows = rows.sort_values("name", key=lambda names: names.map(list(PANELS).index), kind="stable")
    figure = px.line(
        rows, x="epoch", y="value", color="line", facet_col="panel", facet_col_wrap=4, markers=True, **LOOK
    )
    figure.update_yaxes(matches=None, showticklabels=True, title_text=None, exponentformat="power", nticks=5)
    figure.for_each_annotation(lambda note: note.update(text=note.text.removeprefix("panel=")))
    return figure.update_layout(height=420, width=WIDTH, legend={"orientation": "h", "title_text": "", "y": 1.15})


def policy(run: Run) -> go.Figure:
    """The probability of each pair of operations, against that of a uniform τ."""
    recorded = run.tau.get("probabilities", ())
    if not len(recorded):
        raise KitError("τ is fixed, or does not learn yet")
    p = np.asarray(recorded[-1])
    names = list(augment.searched(run.config.augment, run.config.operations))
    labels = {"x": "second operation", "y": "first operation", "color": "÷ uniform"}
    colors = {"color_continuous_midpoint": 1.0, "color_continuous_scale": "RdBu_r"}
    figure = px.imshow(p * p.size, x=names, y=names, labels=labels, title="τ: probability of each pair", **colors)
    return figure.update_layout(height=430, width=WIDTH / 2, margin={"l": 10, "r": 10, "t": 50, "b": 10})


def cells(run: Run) -> go.Figure:
    return figures.cells(run).update_layout(width=WIDTH)


FIGURES = {"curves": curves, "policy": policy, "cells": cells}


@functools.lru_cache(maxsize=4)
def _few(dataset: str, root: str | None, image_size: int | None) -> tuple[Tensor, list[str], bool]:
    """The first training image of each of COLUMNS classes: uint8 [n, C, H, W], the classes, and whether they may be
    mirrored. The rest of the data set is let go.
    """
    sets = data.load_dataset(dataset, root, image_size)
    classes = sets.train.labels.unique().tolist()[:COLUMNS]
    rows = torch.tensor([int((sets.train.labels == k).nonzero()[0]) for k in classes])
    return sets.train.images[rows].clone(), [sets.classes[k] for k in classes], sets.flip


def samples(run: Run) -> str:
    """HTML: training images, and below each what τ as of the last epoch makes of it, with the operations drawn. The
    same epoch gives the same draws.
    """
    config, tau = run.config, run.tau
    images, classes, flip = _few(config.dataset, config.root, config.image_size)
    generator = torch.Generator().manual_seed(len(tau.get("epoch", ())))
    policy = augment.build(config.augment, generator, tuple(images.shape[2:]), flip=flip, config=config)
    if tau:
        policy.adopt({name: values[-1].tolist() for name, values in tau.items()})
    many = images.repeat(ROWS, 1, 1, 1)
    draw = policy.sample(len(many))
    words = [
        [f"{augment.operations()[op]} {magnitude:.1f}" for op, magnitude in zip(ops, magnitudes)]
        for ops, magnitudes in zip(draw.ops.tolist(), draw.magnitude.tolist())
    ]
    titles = [f"<b>{html.escape(name)}</b>" for name in classes] + ["<br>".join(pair) or "crop, flip" for pair in words]
    tiles = "".join(map(_tile, torch.cat([images, policy.apply(many, draw)]), titles))
    style = f"display: grid; grid-template-columns: repeat({len(images)}, minmax(0, 1fr)); gap: 6px; font-size: 10px"
    return f"<div class='kit-samples' style='{style}; line-height: 1.2; text-align: center'>{tiles}</div>"


def _tile(image: Tensor, title: str) -> str:
    file = io.BytesIO()
    to_pil_image(image).save(file, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    look = "width: 100%; max-width: 96px; image-rendering: pixelated"
    return f"<div style='overflow-wrap: anywhere'><img src='{source}' style='{look}'><br>{title}</div>"
