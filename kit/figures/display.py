"""Figures in notebooks."""

from __future__ import annotations

import base64
import json

import plotly.graph_objects as go

from kit.errors import KitError
from kit.figures.static import png

MIME = "application/vnd.plotly.v1+json"


def show(figure: go.Figure, width: int = 1000) -> None:
    """Display a figure as one output with two faces: plotly's for JupyterLab, a PNG for viewers without JavaScript and
    for HTML.

    JupyterLab shows the picture at once and makes it interactive when the mouse enters it; `width` is that of the
    picture, in pixels.
    A figure with traces that `png` cannot draw (3D, maps) is displayed without the PNG, and its text says so.
    """
    from IPython.display import publish_display_data

    figure = figure if isinstance(figure, go.Figure) else go.Figure(figure)  # a copy of 60 frames takes its time
    title = figure.layout.title.text or "figure"
    # not "responsive": JupyterLab resizes a figure by itself, and a responsive one shrinks to no height when it is
    # drawn again
    data = {
        MIME: {**json.loads(figure.to_json()), "config": {"displaylogo": False, "responsive": False}},
        "text/plain": f"<{title}>",
    }
    try:
        data["image/png"] = base64.b64encode(png(figure, width=width)).decode()
    except KitError as error:
        data["text/plain"] = f"<{title}; no static picture: {error}>"
    publish_display_data(data)
