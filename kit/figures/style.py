"""What all figures share: colours and titles of methods and operations, one template, and the ways out: shown in
notebooks, and as PNG by kaleido, which needs a Chromium."""

import asyncio
import atexit
import base64
import functools
import json
import logging
import re
import textwrap
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import kaleido
import plotly.graph_objects as go
import plotly.io
from pydantic import BeforeValidator

from kit import files
from kit.augment import OPERATIONS as AUGMENTATIONS
from kit.config import PARTS
from kit.errors import KitError, unknown
from kit.methods import METHODS
from kit.run.run import Run

# it reports messages of the browser that it ignores, in the middle of a notebook
logging.getLogger("choreographer").setLevel(logging.CRITICAL)

# Okabe & Ito 2008: colours told apart with any kind of colour blindness
BLUE, VERMILLION, SKY = "#0072B2", "#D55E00", "#56B4E9"
SERIES = [BLUE, VERMILLION, "#009E73", "#CC79A7", "#E69F00", SKY, "#8C8C8C"]
GREY, FAINT, CLEAR = "#777777", "rgba(128,128,128,0.25)", "rgba(0,0,0,0)"  # read on white and on black
GRID = {"gridcolor": FAINT, "zerolinecolor": FAINT, "ticklabelstandoff": 5}
LOW_TO_HIGH = [BLUE, "#F7F7F7", VERMILLION]  # less than, as, more than expected
SHARE = ["#F7F7F7", SKY, "#003B5C"]
WIDTH = 780  # pixels for which figures are laid out: JupyterLab's column in a window of 1000

# a colour for each operation of a space, in the order of SERIES; two kernel sizes of a kind are a dark and a light one
SPACE_OPERATIONS = (
    "sep_conv_3x3 dil_conv_3x3 max_pool_3x3 avg_pool_3x3 dil_conv_5x5 sep_conv_5x5 skip_connect",
    "shuffle_5x5 - - shuffle_7x7 xception shuffle_3x3",
    "k3_e6 k5_e6 - - k5_e3 k3_e3",
)
OPERATIONS = {op: color for ops in SPACE_OPERATIONS for op, color in zip(ops.split(), SERIES)} | {"none": "#999999"}
DOTTED = {"color": GREY, "width": 1, "dash": "dot"}  # a line to compare with
DASHES = ("solid", "dot", "dashdot", "longdash", "longdashdot", "9px,2px", "3px,7px", "12px,2px,2px,2px")
ABLATION = ("nas+da", "dha", "nas+hpo", "joint", "random", "plain", "ista")  # shown together: a colour each
TEMPLATE = go.layout.Template(plotly.io.templates["plotly_white"])
TEMPLATE.layout.update(colorway=SERIES, font={"color": GREY, "size": 13}, margin={"l": 20, "r": 20, "b": 40})
TEMPLATE.layout.update(paper_bgcolor=CLEAR, plot_bgcolor=CLEAR, title_x=0.01, title_font_size=17)
TEMPLATE.layout.update(xaxis=GRID, yaxis=GRID | {"exponentformat": "power", "nticks": 5})
TEMPLATE.layout.scene.update({f"{axis}axis": {"backgroundcolor": CLEAR, "gridcolor": FAINT} for axis in "xyz"})
FORMATS = ("png", "svg", "pdf")
Formats = Annotated[list[Literal[FORMATS]], BeforeValidator(lambda text: text.replace(" ", "").split(","))]


class Look(NamedTuple):
    """How a method, a learner or an operation appears in every figure."""

    color: str
    title: str
    dash: str = "solid"


def look(name: str) -> Look:
    """Of any name: a method, a registered part, a network's operation. A sequential method is dashed, its joint not."""
    if name in METHODS:
        joint = list(dict.fromkeys([*ABLATION, *(method for method in METHODS if not method.startswith("seq-"))]))
        place = joint.index(name.removeprefix("seq-"))
        dash = "dash" if name.startswith("seq-") else DASHES[place // len(SERIES) % len(DASHES)]
        return Look(SERIES[place % len(SERIES)], METHODS[name].title, dash)
    color = OPERATIONS.get(name, SERIES[zlib.crc32(name.encode()) % len(SERIES)])
    for parts in (*PARTS.values(), AUGMENTATIONS):
        if name in parts and name not in OPERATIONS:  # "none" is an operation and a policy
            return Look(parts[name].colour or color, parts[name].title)
    words = re.sub(r"^k(\d)_e(\d)$", r"\1×\1, ×\2", name.removesuffix("_connect"))
    return Look(color, re.sub(r"(?<=\d)x(?=\d)", "×", words.replace("_", " ")))


def headline(run: Run) -> str:
    return f"{Path(run.config.dataset).name} · {look(run.config.method).title} · seed {run.config.seed}"


def blank(text: str, title: str = "") -> go.Figure:
    """A figure that says why there is nothing to draw."""
    figure = go.Figure(layout={"template": TEMPLATE, "height": 160, "title": {"text": title}})
    figure.update_xaxes(visible=False).update_yaxes(visible=False)
    place = {"x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper", "showarrow": False}
    return figure.add_annotation(text="<br>".join(textwrap.wrap(text, 60)), font_size=15, **place)


def name_facets(figure: go.Figure) -> go.Figure:
    """Leave the value of plotly.express's headings "column=value", and give every panel its own ticks."""
    figure.for_each_annotation(lambda note: note.update(text=note.text.partition("=")[2]))
    return figure.update_xaxes(showticklabels=True).update_yaxes(showticklabels=True)


def legend_below(figure: go.Figure, height: int) -> go.Figure:
    legend = {"orientation": "h", "y": -125 / height, "yanchor": "top", "title": {"text": ""}}
    figure.for_each_trace(lambda trace: trace.update(name=look(trace.name).title), lambda trace: trace.name in METHODS)
    return figure.update_layout(height=height, legend=legend)


@functools.cache
def _browser() -> Callable[..., bytes]:
    """Kaleido's browser, started once per process, as a function that draws: (figure, opts=…) → the picture."""
    loop, browser = asyncio.new_event_loop(), kaleido.Kaleido(mathjax=False)
    threading.Thread(target=loop.run_forever, daemon=True).start()
    wait = lambda work: asyncio.run_coroutine_threadsafe(work, loop).result()
    wait(browser.open())
    atexit.register(lambda: wait(browser.close()))
    return lambda *figure, **options: wait(browser.calc_fig(*figure, **options))


@functools.cache
def why_no_png() -> str:
    """Why figures cannot be saved as PNG here, and what to install; "" where they can. The first call takes seconds."""
    try:
        _browser()
    except Exception as error:
        reason = str(error.args[0] if error.args else error).split(".")[0]
        return f"no PNG of figures, which stay interactive ({reason}): `plotly_get_chrome` installs a browser"
    return ""


def png(figure: go.Figure, width: int = WIDTH, scale: float = 1, format: str = "png") -> bytes:
    """The figure as PNG (or svg, pdf), laid out for `width` pixels and `scale` times as large, without slider and
    buttons. Raises KitError where there is no browser, and for another format."""
    if why_no_png():
        raise KitError(why_no_png())
    if format not in FORMATS:
        raise unknown("picture format", format, FORMATS)
    still = go.Figure(figure.data, figure.layout)
    still.layout.sliders = still.layout.updatemenus = None
    options = {"format": format, "width": width, "height": figure.layout.height or 450, "scale": scale}
    try:
        return _browser()(still, opts=options)
    except Exception as error:
        raise KitError(f"the browser did not draw the figure ({type(error).__name__}: {error!s:.100})") from None


def save_all(figures: Mapping[Path, go.Figure], width: int = WIDTH, also: Sequence[str] = ()) -> bool:
    """Write every figure to its path, making folders: .png of twice the width, .svg or .pdf; and beside it in the
    formats `also`. False, and why in one line, without a browser."""
    if why_no_png():
        print(why_no_png())
        return False
    for path, figure in figures.items():
        for kind in dict.fromkeys([path.suffix.removeprefix(".").lower(), *also]):
            files.write(path.with_suffix(f".{kind}"), png(figure, width, 2 if kind == "png" else 1, kind))
    return True


def show(figure: go.Figure, width: int = WIDTH, place: str = "", again: bool = False) -> None:
    """Display a figure as one output with two faces: plotly's for JupyterLab, and a PNG `width` pixels wide for viewers
    without JavaScript; without a browser it is plotly's alone, and its text says why. place: a name of the output, in
    whose place another figure is shown `again`, also from a widget's callback."""
    from IPython.display import publish_display_data

    # not "responsive": JupyterLab resizes a figure by itself, and a responsive one shrinks to no height when redrawn
    shown = json.loads(figure.to_json()) | {"config": {"displaylogo": False, "responsive": False}}
    data = {"application/vnd.plotly.v1+json": shown}
    data["text/plain"] = title = figure.layout.title.text or "figure"
    try:
        data["image/png"] = base64.b64encode(png(figure, width)).decode()
    except KitError as error:
        data["text/plain"] = f"{title}; {error}"
    how = {"transient": {"display_id": place}, "update": again} if place else {}
    if again:  # JupyterLab keeps a figure that the mouse has been over, unless another kind of output comes between
        publish_display_data({"text/plain": title}, **how)
    publish_display_data(data, **how)
