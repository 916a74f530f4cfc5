"""Images with what a model says about them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import torch
from PIL import Image
from plotly.subplots import make_subplots
from torch import Tensor

from kit.errors import KitError
from kit.figures.style import PALETTE, TEMPLATE
from kit.run.run import Prediction

COLUMNS = 8
LONGEST = 16  # letters of a class name


def predictions(
    images: Tensor | np.ndarray, prediction: Prediction, truth: Sequence[str] | None = None, title: str = ""
) -> go.Figure:
    """Pictures with the predicted class and its probability; a wrong one is ruled in colour and names the true class
    below.

    images: uint8 [N, C, H, W], C = 1 or 3, as given to `run.predict`. truth: N class names.
    """
    images = torch.as_tensor(images)
    images = images.unsqueeze(1) if images.ndim == 3 else images
    n = len(images)
    if not n or n != len(prediction.names) or (truth is not None and len(truth) != n):
        raise KitError(
            f"predictions takes as many images as labels, at least one; got {n} images, {len(prediction.names)} predictions"
            + ("" if truth is None else f" and {len(truth)} true names")
        )
    wrong = [truth is not None and prediction.names[k] != truth[k] for k in range(n)]
    likely = prediction.probabilities.max(dim=1).values.tolist()
    titles = [
        f"{_short(prediction.names[k])} {likely[k]:.0%}" + (f"<br>✗ is {_short(truth[k])}" if wrong[k] else "")
        for k in range(n)
    ]
    columns, rows = min(COLUMNS, n), -(-n // COLUMNS)
    figure = make_subplots(rows, columns, subplot_titles=titles, horizontal_spacing=0.015, vertical_spacing=0.3 / rows)
    for k, note in enumerate(figure.layout.annotations):
        note.font = {"size": 13, "color": PALETTE["vermillion"] if wrong[k] else PALETTE["black"]}
    for k, image in enumerate(images):
        figure.add_trace(go.Image(source=_source(image), hoverinfo="skip"), k // columns + 1, k % columns + 1)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.update_layout(
        template=TEMPLATE,
        title_text=title,
        height=110 + 175 * rows,
        margin={"l": 20, "r": 20, "b": 15, "t": 95 if title else 55},
    )
    return figure


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def _source(image: Tensor) -> str:
    pixels = image.cpu().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]).convert("RGB").save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
