"""Architectures drawn from what a space tells in `Network.graph`: a chain of blocks as boxes, a cell as a graph whose
every edge has a row of its own, in which its operation's name stands just before the node that it enters."""

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.colors
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kit import space
from kit.config import Config
from kit.errors import KitError
from kit.figures.style import GREY, TEMPLATE, headline, look
from kit.run.run import Run

PER_LINE, STEP, ROW = 12, 3.4, 31  # boxes of a chain, rows from one line to the next, pixels of a row
JOINED = "concatenate"  # of edges that nobody chooses
PALE, LINE = "#F2F2F2", "#B5B5B5"
Edge = tuple[str, str, str]  # source, target, operation
Drawing = tuple[list[go.Scatter], list[dict[str, Any]], int, float]  # traces, annotations, columns, rows


@functools.lru_cache(16)
def supernet(config: Config) -> space.Network:
    """A run's supernet without weights, whose slots are the rows of α."""
    return space.outline(config.space, **config.model_dump(exclude={"space"}))


def cell(genotype: Mapping[str, Any], space: str = "cell", title: str = "") -> go.Figure:
    """A genotype of the named space, as `run.genotype`, from left to right. Raises KitError for what is none of it."""
    return _sheet([(part, edges, ()) for part, edges in _graphs(genotype, space).items()], title)


def cells(run: Run) -> go.Figure:
    """The architecture that a run found or has at its last epoch. Raises KitError where neither is recorded."""
    words = "the architecture found" if run.genotype else f"the architecture so far ({run.status})"
    return cell(_found(run), run.config.space, f"{headline(run)} · {words}")


def cells_compared(run_a: Run, run_b: Run) -> go.Figure:
    """Two runs' architectures, part above part: what they share is pale, what differs coloured; the title counts."""
    mine, other = (_graphs(_found(run), run.config.space) for run in (run_a, run_b))
    panels, words = [], []
    for part in dict.fromkeys([*mine, *other]):
        shared = set(mine.get(part, ())) & set(other.get(part, ()))
        graphs = ((run_a, mine), (run_b, other))
        panels += [(f"{part} · {run.path.name}", graph[part], shared) for run, graph in graphs if part in graph]
        if part in mine and part in other:
            choices = [edge in shared for edge in mine[part] if edge[2] != JOINED]
            words.append(f"{part}: {sum(choices)} of {len(choices)} in common (pale)")
    apart = f"Spaces {run_a.config.space} and {run_b.config.space} offer different choices: not compared"
    return _sheet(panels, " · ".join(words) or apart)


def _found(run: Run) -> Mapping[str, Any]:
    if run.genotype:
        return run.genotype
    support = run.alpha.get("support", ())
    if not len(support):
        raise KitError(f"{run.path.name} has neither a model nor a recorded α ({run.status}): no architecture to draw")
    return supernet(run.config).genotype(tuple(tuple(np.flatnonzero(row).tolist()) for row in support[-1]))


def _graphs(genotype: Mapping[str, Any], name: str) -> dict[str, list[Edge]]:
    try:
        if "network" in genotype:
            return {f"{genotype['network']} is one fixed network without choices": []}
        return space.SPACES[name].make.graph(genotype)
    except (AttributeError, LookupError, TypeError, ValueError):
        raise KitError(f"no genotype of space {name!r}, as run.genotype gives it: {genotype!r:.80}") from None


def _sheet(panels: Sequence[tuple[str, list[Edge], Collection[Edge]]], title: str) -> go.Figure:
    """Drawings under one another. panels: title, edges, and which of them are pale."""
    drawings = []
    for _, edges, pale in panels:
        chain = [source for source, *_ in edges[1:]] == [target for _, target, _ in edges[:-1]]
        drawings.append(_chain(edges, pale) if chain else _graph(edges, pale))
    heights = [ROW * rows for *_, rows in drawings]
    tall = sum(heights) + 40 * (len(panels) - 1)
    titles = [f"<b>{part}</b>" for part, *_ in panels]
    figure = make_subplots(len(panels), row_heights=heights, subplot_titles=titles, vertical_spacing=40 / tall)
    notes = list(figure.layout.annotations)
    for k, (traces, more, columns, rows) in enumerate(drawings, start=1):
        figure.add_traces(traces, rows=k, cols=1)
        notes += [{"xref": f"x{k}", "yref": f"y{k}", "showarrow": False} | note for note in more]
        figure.update_xaxes(range=[-1.3, columns - 0.7], visible=False, row=k)
        figure.update_yaxes(range=[0.4 - rows, 0.5], visible=False, row=k)
    figure.update_layout(template=TEMPLATE, title_text=title, height=tall + 130, margin_t=90, annotations=notes)
    return figure.update_traces(showlegend=False)


def _chain(edges: list[Edge], pale: Collection[Edge]) -> Drawing:
    traces, notes = [], [_box(f"<b>{source}</b>", -1, -0.6, PALE, GREY) for source, *_ in edges[:1]]
    for k, edge in enumerate(edges):
        (_, target, op), x, y = edge, k % PER_LINE, -STEP * (k // PER_LINE) - 0.6
        traces.append(_line([(x - 1, y), (x, y)], edge, LINE))
        words = look(op).title.replace(" ", "<br>")
        notes.append(_box(words, x, y, PALE if edge in pale else look(op).color) | {"width": 56, "height": 36})
        notes.append({"text": target, "x": x, "y": y - 1, "yanchor": "top", "font": {"size": 11, "color": GREY}})
    return traces, notes, PER_LINE, STEP * -(-len(edges) // PER_LINE) or 1


def _graph(edges: list[Edge], pale: Collection[Edge]) -> Drawing:
    nodes = list(dict.fromkeys(target for _, target, _ in edges))
    inputs = sorted({source for source, *_ in edges} - set(nodes))
    rows = sum(op != JOINED for *_, op in edges) + 0.35 * len(nodes)
    middle = np.linspace(-0.3, -0.7, len(inputs) + 2)[1:-1] * rows
    at = {name: (-1.0, float(y)) for name, y in zip(inputs, middle)}
    traces, notes, y = [], [], 0.0
    for x, node in enumerate(nodes):
        entering = [edge for edge in edges if edge[1] == node and edge[2] != JOINED]
        at[node] = (float(x), y - (len(entering) - 1) / 2 if entering else -rows / 2)
        for edge in entering:
            start, (color, title, _) = at[edge[0]], look(edge[2])
            path = [*_curve(start, (start[0] + 0.4, y)), *_curve((x - 0.25, y), at[node])]
            traces.append(_line(path, edge, color).update(opacity=0.25 if edge in pale else 1.0))
            notes.append(_box(title, x - 0.45, y, PALE if edge in pale else color))
            y -= 1
        y -= 0.35
    traces += [_line(_curve(at[edge[0]], at[edge[1]]), edge, LINE) for edge in edges if edge[2] == JOINED]
    notes += [_box(f"<b>{name}</b>", *place, PALE, GREY) for name, place in at.items()]
    return traces, notes, len(nodes), rows


def _curve(source: tuple[float, float], target: tuple[float, float]) -> list[tuple[float, float]]:
    t = np.linspace(0, 1, 14)
    x, y = (a + (b - a) * share for a, b, share in zip(source, target, (t, 3 * t**2 - 2 * t**3)))
    return list(zip(x.tolist(), y.tolist()))


def _line(points: Sequence[tuple[float, float]], edge: Edge, color: str) -> go.Scatter:
    x, y = zip(*points)
    return go.Scatter(x=x, y=y, mode="lines", name=look(edge[2]).title, line_color=color, line_width=2.5)


def _box(text: str, x: float, y: float, color: str, border: str = "white") -> dict[str, Any]:
    red, green, blue = plotly.colors.hex_to_rgb(color)
    font = {"size": 12, "color": "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else "black"}
    return {"text": text, "x": x, "y": y, "font": font, "bgcolor": color, "bordercolor": border, "borderpad": 3}
