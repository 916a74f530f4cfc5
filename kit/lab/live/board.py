"""Figures that are redrawn in place, as one widget.

plotly's FigureWidget sends plotly.js, 5 MB, with every figure; here it travels once per page, when the page asks for
it, so that the
widget's state is the figures alone. The browser draws them (`Plotly.react`: zoom and hover survive), not the kernel.
"""

from __future__ import annotations

import json

import anywidget
import plotly.graph_objects as go
import traitlets
from plotly.offline import get_plotlyjs

from kit.lab.live.views import VIEWS

SCRIPT = """
const NAMES = %s;

function library(model) {
  if (window.Plotly) return Promise.resolve(window.Plotly);
  window.kitPlotly ??= new Promise((resolve) => {
    const receive = (message, buffers) => {
      if (message.kind !== "plotly.js") return;
      model.off("msg:custom", receive);
      const script = document.createElement("script");
      script.src = URL.createObjectURL(new Blob([buffers[0]], {type: "text/javascript"}));
      script.onload = () => { URL.revokeObjectURL(script.src); resolve(window.Plotly); };
      document.head.append(script);
    };
    model.on("msg:custom", receive);
    model.send({kind: "plotly.js"});
  });
  return window.kitPlotly;
}

async function render({model, el}) {
  const root = document.createElement("div");
  root.className = "kit-board";
  el.append(root);
  const places = {}, stops = [];
  for (const name of NAMES) {
    places[name] = document.createElement("div");
    places[name].className = `kit-view kit-${name}`;
    root.append(places[name]);
  }
  const Plotly = await library(model);
  const drawn = new Set();
  const draw = async (name) => {
    const {data, layout} = model.get(name);
    places[name].style.display = data ? "" : "none";
    if (!data) return;
    await Plotly.react(places[name], data, {...layout, autosize: true}, {displaylogo: false});
    drawn.add(name);
  };
  let last = Promise.resolve();
  for (const name of NAMES) {
    const changed = () => { last = last.then(() => draw(name)).catch(console.error); };
    model.on(`change:${name}`, changed);
    stops.push(() => model.off(`change:${name}`, changed));
    changed();
  }
  // rejected where the page is not in view
  const observer = new ResizeObserver(() => { for (const name of drawn) Plotly.Plots.resize(places[name])?.catch?.(() => {}); });
  observer.observe(root);
  return () => {
    observer.disconnect();
    stops.forEach((stop) => stop());
    drawn.forEach((name) => Plotly.purge(places[name]));
  };
}
export default {render};
""" % json.dumps(VIEWS)

STYLE = """
.kit-board {display: grid; grid-template-columns: repeat(auto-fit, minmax(min(520px, 100%), 1fr)); gap: 8px; padding: 2px;}
.kit-view {min-width: 0; background: white; border: 1px solid var(--jp-border-color2, #ddd); border-radius: 4px; overflow: hidden;}
.kit-curves, .kit-cells {grid-column: 1 / -1;}
"""


class Board(anywidget.AnyWidget):
    """One trait per view, plotly's JSON: {"data": [...], "layout": {...}}, or {} for none."""

    _esm, _css = SCRIPT, STYLE
    curves = traitlets.Dict().tag(sync=True)
    policy = traitlets.Dict().tag(sync=True)
    samples = traitlets.Dict().tag(sync=True)
    cells = traitlets.Dict().tag(sync=True)

    def __init__(self) -> None:
        super().__init__()
        self.on_msg(self._asked)

    def show(self, figures: dict[str, go.Figure]) -> None:
        """Redraw in place; figures by the names of VIEWS."""
        for name, figure in figures.items():
            setattr(self, name, json.loads(figure.to_json()))

    def clear(self) -> None:
        for name in VIEWS:
            setattr(self, name, {})

    def _asked(self, _: object, content: dict, __: object) -> None:
        if content.get("kind") == "plotly.js":
            self.send({"kind": "plotly.js"}, [get_plotlyjs().encode()])
