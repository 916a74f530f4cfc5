"""Figures on their way out: shown in notebooks, and as PNG by kaleido, which needs a Chromium."""

import base64
import functools
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import kaleido
import numpy as np
import plotly.express as px
import plotly.graph_objects as go
import torch
from torch import Tensor

from kit.errors import KitError
from kit.figures.style import TEMPLATE, VERMILLION, WIDTH, name_facets
from kit.run.run import Prediction

# it reports messages of the browser that it ignores, in the middle of a notebook
logging.getLogger("choreographer").setLevel(logging.CRITICAL)

MIME = "application/vnd.plotly.v1+json"
# JupyterLab's picture of a figure is else cut off at the right in a window narrower than it
FIT = "<style>.jp-OutputArea-output .plot-img { max-width: 100%; height: auto; }</style>"
PER_ROW = 8  # pictures


@functools.cache
def why_no_png() -> str:
    """Why figures cannot be saved as PNG here, and what to install; "" where they can. The first call takes seconds."""
    try:  # once without the server, which would wait for ever for a browser that does not start
        kaleido.calc_fig_sync(go.Figure(), opts={"format": "png"}, kopts={"mathjax": False})
    except Exception as error:
        reason = str(error.args[0] if error.args else error).split(".")[0]
        return f"no PNG of figures, which stay interactive ({reason}): `plotly_get_chrome` installs a browser"
    kaleido.start_sync_server(silence_warnings=True, mathjax=False)
    return ""


def png(figure: go.Figure, width: int = WIDTH) -> bytes:
    """The figure as PNG, `width` pixels wide, without slider and buttons. Raises KitError where there is no browser."""
    if why_no_png():
        raise KitError(why_no_png())
    still = go.Figure(figure.data, figure.layout)
    still.layout.sliders = still.layout.updatemenus = None
    options = {"format": "png", "width": width, "height": figure.layout.height or 450}
    try:
        return kaleido.calc_fig_sync(still, opts=options)
    except Exception as error:
        raise KitError(f"the browser did not draw the figure ({type(error).__name__}: {error!s:.100})") from None


def save_all(figures: Mapping[Path, go.Figure], width: int = WIDTH) -> bool:
    """Write every figure as PNG to its path, making folders; returns whether that was possible. Where there is no
    browser, one line says so, with what to install, and nothing is written."""
    if why_no_png():
        print(why_no_png())
        return False
    for path, figure in figures.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(figure, width))
    return True


def show(figure: go.Figure, width: int = WIDTH) -> None:
    """Display a figure as one output with two faces: plotly's for JupyterLab, and a PNG `width` pixels wide for viewers
    without JavaScript; without a browser it is plotly's alone, and its text says why."""
    from IPython.display import publish_display_data

    publish_display_data({"text/html": FIT})
    # not "responsive": JupyterLab resizes a figure by itself, and a responsive one shrinks to no height when redrawn
    data = {MIME: {**json.loads(figure.to_json()), "config": {"displaylogo": False, "responsive": False}}}
    data["text/plain"] = title = figure.layout.title.text or "figure"
    try:
        data["image/png"] = base64.b64encode(png(figure, width)).decode()
    except KitError as error:
        data["text/plain"] = f"{title}; {error}"
    publish_display_data(data)


def predictions(
    images: Tensor | np.ndarray, prediction: Prediction, truth: Sequence[str] | None = None, title: str = ""
) -> go.Figure:
    """Pictures with the predicted class and its probability; a wrong one is coloured and names the true class.

    images: uint8 [N, C, H, W], as given to `run.predict`. truth: N class names."""
    likely = prediction.probabilities.max(dim=1).values.tolist()
    words = [f"{name:.16} {p:.0%}" for name, p in zip(prediction.names, likely)]
    for k, name in enumerate(truth or ()):
        if name != prediction.names[k]:
            words[k] = f'<span style="color:{VERMILLION}">{words[k]}<br>✗ is {name:.16}</span>'
    pixels = torch.as_tensor(images).cpu().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    rows = -(-len(images) // PER_ROW)
    gaps = {"facet_col_spacing": 0.015, "facet_row_spacing": 0.3 / rows}
    figure = px.imshow(pixels, facet_col=0, facet_col_wrap=min(PER_ROW, len(images)), binary_string=True, **gaps)
    name_facets(figure).for_each_annotation(lambda note: note.update(text=words[int(note.text)], font_size=12))
    figure.update_xaxes(visible=False, matches=None).update_yaxes(visible=False, matches=None)
    figure.update_traces(hovertemplate=None, hoverinfo="skip")
    margin = {"l": 15, "r": 15, "b": 12, "t": 95 if title else 55}
    return figure.update_layout(template=TEMPLATE, title_text=title, height=110 + 175 * rows, margin=margin)
