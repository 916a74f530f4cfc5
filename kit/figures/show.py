"""Figures on their way out: shown in notebooks, animated over epochs, and as PNG by kaleido, which needs a Chromium."""

from __future__ import annotations

import asyncio
import atexit
import base64
import functools
import json
import threading
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import kaleido
import numpy as np
import plotly.express as px
import plotly.graph_objects as go
import torch
from torch import Tensor

from kit.errors import KitError
from kit.figures.style import FAINT, GREY, INK, PALETTE, TEMPLATE, WIDTH, colored
from kit.run.run import Prediction

MIME = "application/vnd.plotly.v1+json"
CONTROLS = 100  # pixels that slider and play button take below the plots; pictures leave them out
# JupyterLab's picture of a figure is else cut off at the right in a window narrower than it
FIT = "<style>.jp-OutputArea-output .plot-img { max-width: 100%; height: auto; }</style>"
PLAY = 110  # milliseconds a frame
LONGEST = 16  # letters of a class name
START, DRAW = 60, 120  # seconds after which a browser counts as one that does not work
INSTALL = "install a browser with `plotly_get_chrome`, or the system's chromium package"

# ---- pictures ------------------------------------------------------------------------------------


class _Browser:
    """One browser for this process, beside a thread with an event loop of its own, so that it works in notebooks too.

    kaleido's own server waits for ever where the browser does not start."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True, name="kaleido").start()
        try:
            self.engine, self.why_not = self.wait(self._opened(), START), ""
        except Exception as error:
            reason = (str(error.args[0]) if error.args else type(error).__name__).split(".")[0].strip().splitlines()[0]
            self.engine, self.why_not = None, f"no PNG of figures, which stay interactive ({reason}): {INSTALL}"
            return
        atexit.register(self.close)

    async def _opened(self) -> Any:
        return await kaleido.Kaleido(mathjax=False).__aenter__()

    def wait(self, task: Coroutine, seconds: float) -> Any:
        return asyncio.run_coroutine_threadsafe(task, self.loop).result(seconds)

    def close(self) -> None:
        try:
            self.wait(self.engine.__aexit__(None, None, None), 10)
        except Exception:  # it is gone already
            pass


_browser, _say_once = functools.cache(_Browser), functools.cache(print)


def why_no_png() -> str:
    """Why figures cannot be saved as PNG here, and what to install, in one line; "" where they can. Starts a browser at
    its first call, which takes about 3 seconds."""
    return _browser().why_not


def png(figure: go.Figure, width: int = WIDTH, height: int | None = None) -> bytes:
    """The figure as PNG, `width` × `height` pixels (height: the figure's own by default), without slider and buttons.

    Raises KitError where no browser can be started, saying what to install."""
    if why_no_png():
        raise KitError(why_no_png())
    still = go.Figure(data=figure.data, layout=figure.layout)  # without the frames
    tall = (figure.layout.height or 450) - (CONTROLS if figure.layout.sliders else 0)
    if figure.layout.sliders:
        still.layout.sliders = still.layout.updatemenus = None
        still.update_layout(height=tall, margin_b=figure.layout.margin.b - CONTROLS)
    options = {"format": "png", "width": width, "height": height or int(tall)}
    try:
        return _browser().wait(_browser().engine.calc_fig(still, opts=options), DRAW)
    except Exception as error:
        raise KitError(f"the browser did not draw the figure ({type(error).__name__}: {error!s:.100})") from None


def save_all(figures: Mapping[str | Path, go.Figure], width: int = WIDTH) -> bool:
    """Write every figure as PNG to its path, making folders; returns whether that was possible. Where there is no
    browser, one line says so, once, with what to install, and nothing is written."""
    try:
        for path, figure in figures.items():
            data = png(figure, width)
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_bytes(data)
    except KitError as error:
        _say_once(str(error))
        return False
    return True


def save(figure: go.Figure, path: str | Path, width: int = WIDTH) -> bool:
    """Write one figure as PNG; see `save_all`."""
    return save_all({path: figure}, width)


def show(figure: go.Figure, width: int = WIDTH) -> None:
    """Display a figure as one output with two faces: plotly's for JupyterLab, a PNG for viewers without JavaScript and
    for HTML.

    JupyterLab shows the picture at once and makes it interactive when the mouse enters it; `width` is the picture's, in
    pixels. Without a browser for pictures the output is plotly's alone, and its text says why.
    """
    from IPython import get_ipython
    from IPython.display import HTML, display, publish_display_data

    if get_ipython():
        display(HTML(FIT))
    title = figure.layout.title.text or "figure"
    # not "responsive": JupyterLab resizes a figure by itself, and a responsive one shrinks to no height when redrawn
    data = {MIME: {**json.loads(figure.to_json()), "config": {"displaylogo": False, "responsive": False}}}
    data["text/plain"] = f"<{title}>"
    try:
        data["image/png"] = base64.b64encode(png(figure, width)).decode()
    except KitError as error:
        data["text/plain"] = f"<{title}; {error}>"
    publish_display_data(data)


# ---- over epochs ---------------------------------------------------------------------------------


def animate(figure: go.Figure, epochs: Sequence[int], frames: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Add a slider over these epochs, a play button, and in every panel with an epoch axis a line at the slider's.

    frames: for each epoch what plotly's frame changes: "data" of the "traces" by number, and "layout". The figure
    itself should show the last epoch."""
    axes = (figure.layout.meta or {}).get("epochs", ())
    line = {"type": "line", "y0": 0, "y1": 1, "line": {"color": INK, "width": 1.2}}

    def cursors(e: int) -> list[dict[str, Any]]:
        return [{**line, "x0": e, "x1": e, "xref": f"x{k}", "yref": f"y{k} domain"} for k in axes]

    # plotly merges a frame's shapes into the figure's one by one: the cursors come first
    figure.layout.shapes = [*cursors(epochs[-1]), *(shape.to_plotly_json() for shape in figure.layout.shapes)]
    frames = ({**frame, "layout": {"shapes": cursors(e), **frame["layout"]}} for e, frame in zip(epochs, frames))
    figure.frames = [{"name": str(e), **frame} for e, frame in zip(epochs, frames)]
    steps = [{"label": str(e), "method": "animate", "args": [[str(e)], _how(0)]} for e in epochs]
    buttons = [
        {"label": "▶ play", "method": "animate", "args": [None, _how(PLAY) | {"fromcurrent": True}]},
        {"label": "❚❚ pause", "method": "animate", "args": [[None], _how(0)]},
    ]
    bottom = figure.layout.margin.b
    base = -(bottom + 10) / (figure.layout.height - figure.layout.margin.t - bottom)
    place = {"xanchor": "left", "y": base, "yanchor": "top", "bordercolor": GREY, "pad": {"t": 0, "b": 0, "l": 0}}
    look = {"currentvalue": {"prefix": "epoch ", "font": {"size": 14, "color": INK}}, "transition": {"duration": 0}}
    colors = {"bgcolor": FAINT, "activebgcolor": PALETTE["blue"], "tickcolor": GREY, "font": {"size": 11, "color": INK}}
    slider = {"active": len(steps) - 1, "steps": steps, "x": 0.14, "len": 0.86, **place, **look, **colors}
    menu = {"type": "buttons", "showactive": False, "x": 0, "bgcolor": "white", "font": {"size": 12, "color": INK}}
    figure.update_layout(sliders=[slider], updatemenus=[{**menu, **place, "buttons": buttons}])
    return figure.update_layout(height=figure.layout.height + CONTROLS, margin_b=bottom + CONTROLS)


def _how(duration: int) -> dict[str, Any]:
    return {"mode": "immediate", "frame": {"duration": duration, "redraw": True}, "transition": {"duration": 0}}


# ---- images --------------------------------------------------------------------------------------


def pictures(images: Tensor | np.ndarray, titles: Sequence[str], columns: int = 8, title: str = "") -> go.Figure:
    """Images in rows, each with its title above. images: uint8 [N, C, H, W] (C = 1 or 3) or [N, H, W], on any
    device."""
    images = torch.as_tensor(images).cpu()
    images = images.unsqueeze(1) if images.ndim == 3 else images
    pixels = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    columns = min(columns, len(pixels))
    rows = -(-len(pixels) // columns)
    gaps = {"facet_col_spacing": 0.015, "facet_row_spacing": 0.3 / rows}
    figure = px.imshow(pixels, facet_col=0, facet_col_wrap=columns, binary_string=True, template=TEMPLATE, **gaps)
    figure.for_each_annotation(lambda note: note.update(text=titles[int(note.text.split("=")[1])], font_size=12))
    figure.update_xaxes(visible=False, matches=None).update_yaxes(visible=False, matches=None)
    figure.update_traces(hovertemplate=None, hoverinfo="skip")
    margin = {"l": 15, "r": 15, "b": 12, "t": 95 if title else 55}
    return figure.update_layout(title_text=title, height=110 + 1400 // columns * rows, margin=margin)


def predictions(
    images: Tensor | np.ndarray, prediction: Prediction, truth: Sequence[str] | None = None, title: str = ""
) -> go.Figure:
    """Pictures with the predicted class and its probability; a wrong one is coloured and names the true class.

    images: uint8 [N, C, H, W], as given to `run.predict`. truth: N class names. Raises KitError where counts differ.
    """
    n = len(images)
    if not n or n != len(prediction.names) or (truth is not None and len(truth) != n):
        given = f"{n} images, {len(prediction.names)} predictions and {len(truth or ())} true names"
        raise KitError(f"predictions takes as many images as labels, at least one; got {given}")
    likely = prediction.probabilities.max(dim=1).values.tolist()
    titles = [f"{shortened(name)} {p:.0%}" for name, p in zip(prediction.names, likely)]
    for k, name in enumerate(truth or ()):
        if name != prediction.names[k]:
            titles[k] = colored(f"{titles[k]}<br>✗ is {shortened(name)}", PALETTE["vermillion"])
    return pictures(images, titles, title=title)


def shortened(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
