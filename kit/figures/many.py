"""Runs and methods beside each other: curves of seeds and their mean, accuracies with their intervals, accuracy against
cost; loss landscapes (DHA Fig. 3). summary and rows are tables of `kit.studies.tables.summarize` and `per_run`."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from sklearn.isotonic import isotonic_regression

from kit.figures.style import CLEAR, DASHES, DOTTED, SERIES, TEMPLATE, Look, headline, legend_below, look, name_facets
from kit.run.run import Run

COSTS = {"seconds": "wall-clock [s]", "params": "parameters", "macs": "multiply-adds", "latency_ms": "latency [ms]"}
ACCURACY = "test accuracy [%]"
Landscapes = Sequence[Any]  # of `kit.landscape.compare`
UNIT = "relative to the filter norm"
CAMERA = {"eye": {"x": 1.45, "y": -1.7, "z": 1.0}, "center": {"x": 0, "y": 0, "z": -0.08}}
MANY = 12  # values of a field that are written out
MOST = 0.98  # of the losses: what is above has one colour, so that a corner does not take all of them
ROW, AROUND = 16, (80, 70)  # pixels of a name at the right, and above and below a plot
LEVELS = 9  # steps from the lowest loss to the highest
HOVER = "a %{x:.3g}, b %{y:.3g}<br>loss %{customdata:.4g}<extra></extra>"


def overlay(runs: Sequence[Run], name: str, over: str = "epoch") -> go.Figure:
    """One quantity of many runs: a thin line per seed, and bold the mean of a method's seeds over the epochs that all
    reached. name: of the history, as "eta/lr"; KitError where a run has none. over: "epoch", or "seconds" so far."""
    groups: dict[Look, list[pd.DataFrame]] = {}
    for run in runs:
        curve, clock = run.curve(name), run.clock
        at = pd.Series(clock["seconds"], clock["epoch"]).reindex(curve.index) if over == "seconds" else curve.index
        named = look(run.config.method)._replace(title=run.config.method)
        groups.setdefault(named, []).append(pd.DataFrame({"x": at, "y": curve}))
    datasets = ", ".join(sorted({str(run.config.dataset) for run in runs}))
    unit = " [nats]" if "loss" in name else ""
    looks = {"xaxis_title": over, "xaxis_type": "log" if over == "seconds" else "-", "yaxis_title": f"{name}{unit}"}
    return _name_at_right(_seeds_and_means(groups, title=f"{datasets} · {name}", **looks))


def progress(runs: Sequence[Run]) -> go.Figure:
    """`overlay` of the accuracy over seconds (DiffAutoML's Fig. 2b), on validation images where all held some out."""
    validated = all("val_accuracy" in set(run.history["name"]) for run in runs)
    over = "seconds" if all(run.clock for run in runs) else "epoch"
    return overlay(runs, "val_accuracy" if validated else "train_accuracy", over)


def planted(curves: Mapping[str, Sequence[Sequence[float]]], steps: int, title: str) -> go.Figure:
    """How learners concentrate on what is planted. curves: of `kit.planted.watch`, by learner a list for every seed."""
    groups, at = {}, lambda seed: np.linspace(0, steps, len(seed))
    for color, (name, seeds) in zip(SERIES * len(curves), curves.items()):
        groups[Look(color, name)] = [pd.DataFrame({"x": at(seed), "y": seed}) for seed in seeds]
    words = {"title": title, "xaxis_title": "step", "yaxis_title": "probability on what is planted"}
    return _name_at_right(_seeds_and_means(groups, yaxis_range=[0, 1.02], **words)).add_hline(0.8, line=DOTTED)


def _seeds_and_means(groups: Mapping[Look, Sequence[pd.DataFrame]], **layout: Any) -> go.Figure:
    """groups: columns x and y of every seed (or direction); the means are over the rows of one index."""
    figure = go.Figure().update_layout(template=TEMPLATE, **layout)
    for (color, name, dash), members in groups.items():
        line = {"color": color, "dash": dash}
        for seed in members if len(members) > 1 else ():  # one seed alone is its mean
            figure.add_scatter(x=seed["x"], y=seed["y"], line=line | {"width": 1}, opacity=0.4, showlegend=False)
        mean = (sum(members) / len(members)).dropna()
        figure.add_scatter(x=mean["x"], y=mean["y"], name=f"{name} (n = {len(members)})", line=line | {"width": 3})
    return figure.update_traces(mode="lines")


def _name_at_right(figure: go.Figure) -> go.Figure:
    """In place of a legend: the name of each line or point in its colour at the right, as high as its end or as near as
    the others leave room, and a thin line that leads there."""
    named = [trace for trace in figure.data if trace.name and len(trace.x)]
    if not named:
        return figure
    ends = np.array([(trace.x[-1], trace.y[-1]) for trace in named], float)
    height = max(520, ROW * len(named) + sum(AROUND))
    for k, axis in enumerate((figure.layout.xaxis, figure.layout.yaxis)):
        every = np.concatenate([np.array(trace["xy"[k]], float) for trace in figure.data])
        if axis.type == "log":
            every, ends[:, k] = np.log10(every), np.log10(ends[:, k])
        axis.range = axis.range or _room(every[np.isfinite(every)])
        ends[:, k] = ends[:, k].clip(*axis.range)
    right, (low, high) = figure.layout.xaxis.range[1], figure.layout.yaxis.range
    row = ROW * (high - low) / (height - sum(AROUND))
    order, rows = ends[:, 1].argsort(kind="stable"), low + row * (np.arange(len(ends)) + 0.5)
    raised = isotonic_regression(ends[order, 1] - rows, y_min=0, y_max=high - row / 2 - rows[-1])
    for k, y in zip(order, rows + raised):
        name, color = named[k].name, named[k].line.color or named[k].marker.color
        looks = {"font": {"color": color, "size": 12}, "arrowcolor": color, "arrowwidth": 0.5, "arrowhead": 0}
        place = {"x": ends[k, 0], "y": ends[k, 1], "ax": right, "ay": y, "axref": "x", "ayref": "y", "xanchor": "left"}
        figure.add_annotation(text=name, **place, **looks)
    margin = {"t": AROUND[0], "b": AROUND[1], "r": 15 + 7 * max(len(trace.name) for trace in named)}
    return figure.update_layout(showlegend=False, height=height, margin=margin)


def _room(values: np.ndarray, share: float = 0.04) -> list[float]:
    low, high = np.nanmin(values), np.nanmax(values)
    return [low - (room := share * (high - low) or 1), high + room]


def ablation(summary: pd.DataFrame, rows: pd.DataFrame, title: str = "Test accuracy") -> go.Figure:
    """Test accuracy per method, best first: mean with its 95% interval, and every seed as a faint dot."""
    summary = summary.sort_values("accuracy_mean", ascending=False)
    figure = _means(summary, ACCURACY, "method", error_x="above", error_x_minus="below", title=title)
    names = (summary["title"] + " (n = " + summary["n"].astype(str) + ")").tolist()
    figure.add_traces(_single(rows, ACCURACY, "method")).update_yaxes(tickvals=summary["method"], ticktext=names)
    return figure.update_layout(showlegend=False, height=150 + 50 * len(names), yaxis_title_text="")


def accuracy_against_time(summary: pd.DataFrame, title: str = "Test accuracy against time") -> go.Figure:
    """Test accuracy over the wall-clock of a run: mean and 95% interval per method."""
    figure = _means(summary, "seconds", ACCURACY, error_y="above", error_y_minus="below", title=title)
    figure.update_yaxes(range=_room(100 * summary[["accuracy_low", "accuracy_mean", "accuracy_high"]].to_numpy()))
    return _name_at_right(figure.update_xaxes(title_text=COSTS["seconds"], type="log"))


def under_limits(summary: pd.DataFrame, rows: pd.DataFrame, cost: str, title: str = "") -> go.Figure:
    """Accuracy over cost (params, macs or latency_ms): for every method and limit the mean with its interval at the
    mean cost of what was found, and the single runs, faint; dotted the limits. summary, rows: of `studies.limits`."""
    found = summary.sort_values(["method", "cost_mean"])
    figure = _means(found, "cost_mean", ACCURACY, error_y="above", error_y_minus="below", title=title)
    figure.update_traces(mode="lines+markers").add_traces(_single(rows, "cost", ACCURACY))
    for k, bound in enumerate(sorted(summary["bound"].dropna().unique())):
        words = {"annotation_text": f"≤ {round(bound, 2):,.10g}", "annotation_yshift": 14 * (k % 2)}
        figure.add_vline(bound, line=DOTTED, annotation_position="top", **words)
    # the runs decide what is shown: two seeds' interval can span everything
    figure.update_yaxes(range=np.clip(_room(100 * rows["test_accuracy"], 0.8), 0, 100))
    return legend_below(figure.update_xaxes(title_text=f"{COSTS[cost]}; dotted: the limits"), 560)


def tradeoffs(table: pd.DataFrame) -> go.Figure:
    """Test accuracy over seconds, parameters and multiply-adds, a row of panels per data set. table: of `compare`."""
    kept = ["run", "data", "method", ACCURACY]
    points = table.assign(**{ACCURACY: 100 * table["test_accuracy"]})
    points = points.melt(kept, ["seconds", "params", "macs"], "cost", "paid").replace({"cost": COSTS})
    rows = points["data"].nunique()
    facets = {"facet_col": "cost", "facet_row": "data", "facet_row_spacing": 0.2 / rows, "facet_col_spacing": 0.06}
    looks = {"title": "Test accuracy against cost", "hover_name": "run", **facets, **_looks(points)}
    figure = name_facets(px.scatter(points, x="paid", y=ACCURACY, **looks)).update_traces(marker_size=10)
    return legend_below(figure.update_xaxes(matches=None, title_text=""), 170 + 330 * rows)


def parallel(table: pd.DataFrame, fields: Sequence[str]) -> go.Figure:
    """Each finished run as a line through its fields and its test accuracy, which colours it. table: of `browse`."""
    known, axes = table.dropna(subset="test_accuracy"), []
    for name in fields:
        column = known[name] if pd.api.types.is_numeric_dtype(known[name]) else known[name].astype(str)
        codes, names = pd.factorize(column, sort=True)
        ticks = {"tickvals": list(range(len(names))), "ticktext": [f"{value:.14}" for value in map(str, names)]}
        axes.append({"label": name, "values": codes, **(ticks if len(names) <= MANY else {"values": column})})
    accuracy = 100 * known["test_accuracy"]
    axes.append({"label": ACCURACY, "values": accuracy})
    looks = {"line": {"color": accuracy, "colorscale": "Viridis"}, "labelangle": -15, "rangefont": {"color": CLEAR}}
    title = "Runs by their fields: drag along an axis to select"
    figure = go.Figure(go.Parcoords(dimensions=axes, tickfont={"size": 12}, **looks))
    return figure.update_layout(template=TEMPLATE, title_text=title, height=480, margin={"l": 110, "r": 70, "t": 150})


def _means(summary: pd.DataFrame, x: str, y: str, **more: Any) -> go.Figure:
    mean, low, high = (100 * summary[f"accuracy_{k}"] for k in ("mean", "low", "high"))
    points = summary.assign(**{ACCURACY: mean, "above": high - mean, "below": mean - low})
    labels = {ACCURACY: f"{ACCURACY}: mean and 95% interval"}
    return px.scatter(points, x=x, y=y, labels=labels, **more, **_looks(points)).update_traces(marker_size=11)


def _single(rows: pd.DataFrame, x: str, y: str) -> Sequence[go.Scatter]:
    points = rows.assign(**{ACCURACY: 100 * rows["test_accuracy"]})
    return px.scatter(points, x=x, y=y, opacity=0.4, **_looks(rows)).update_traces(showlegend=False).data


def _looks(rows: pd.DataFrame) -> dict[str, Any]:
    looks = {method: look(method) for method in rows["method"]}
    symbols = {method: "circle" if of.dash == "solid" else "circle-open" for method, of in looks.items()}
    colors = {method: of.color for method, of in looks.items()}
    by_method = {"color": "method", "symbol": "method", "color_discrete_map": colors, "symbol_map": symbols}
    return by_method | {"template": TEMPLATE}


def landscape_contours(landscapes: Landscapes) -> go.Figure:
    """Each run's plane as filled contours of the same levels; the highest losses have one colour."""
    figure = _planes(landscapes, go.Contour, line={"color": "white", "width": 1})
    figure.add_scatter(x=[0], y=[0], row="all", col="all", name="trained model", hoverinfo="name", showlegend=False)
    figure.update_traces(marker={"symbol": "cross", "size": 9, "color": "white"}, selector={"type": "scatter"})
    figure.update_xaxes(title_text=f"a · δ, {UNIT}", constrain="domain", showgrid=False)
    figure.update_yaxes(title_text="b · η", col=1)
    figure.update_yaxes(constrain="domain", constraintoward="top", showgrid=False)
    for k, axis in enumerate(figure.select_yaxes(), start=1):
        axis.scaleanchor = f"x{k}"
    return figure


def landscape_surfaces(landscapes: Landscapes) -> go.Figure:
    """The plane of each run as a surface over (a, b): the same heights, colours and camera in all."""
    figure = _planes(landscapes, go.Surface, lighting={"ambient": 0.85, "diffuse": 0.3, "specular": 0.02})
    ratio = {"aspectmode": "manual", "aspectratio": {"x": 1, "y": 1, "z": 0.75}}
    z = {"title_text": "", "showticklabels": False}  # the colours say what the heights are
    return figure.update_scenes(camera=CAMERA, xaxis_title_text="a · δ", yaxis_title_text="b · η", zaxis=z, **ratio)


def landscape_lines(landscapes: Landscapes) -> go.Figure:
    """Loss along random directions: a thin line for each direction, and bold the mean over a run's directions."""
    groups = {}
    for k, item in enumerate(landscapes):
        of = Look(look(item.run.config.method).color, item.label, DASHES[k % len(DASHES)])
        groups[of] = [pd.DataFrame({"x": item.lines.coordinates, "y": losses}) for losses in item.lines.values]
    low, high, guess = _span(landscapes)
    title = f"{_title(landscapes)} along random directions (dotted: guessing)"
    figure = _seeds_and_means(groups, title=title, xaxis_title=f"t · d, {UNIT}", yaxis_title="test loss [nats]")
    figure.update_yaxes(type="log", range=np.log10([low / 1.5, high])).add_hline(guess, line=DOTTED)
    return legend_below(figure, 560)


def landscape_trajectory(found: Any) -> go.Figure:
    """The path of a run's weights over the loss (log₁₀) on the plane of most movement. found: of
    `kit.landscape.trajectory`."""
    heights = np.log10(np.clip(found.values.T, 1e-9, np.nanquantile(found.values, MOST)))
    low, high = float(np.nanmin(heights)), float(np.nanmax(heights))
    looks = {
        "colorscale": "Viridis",
        "colorbar": _loss_bar(np.linspace(low, high, 5)),
        "ncontours": 15,
        "line_width": 0.5,
    }
    figure = go.Figure(go.Contour(x=found.x, y=found.y, z=heights, **looks))
    words = [f"epoch {epoch}: {loss:.3g}" for epoch, loss in zip(found.epochs, found.losses)]
    looks = {"mode": "lines+markers", "line": {"color": "white", "width": 2}, "showlegend": False, "hovertext": words}
    figure.add_scatter(x=found.path[:, 0], y=found.path[:, 1], **looks)
    for k, axis in enumerate((figure.update_xaxes, figure.update_yaxes)):
        axis(title_text=f"direction {k + 1}: {found.share[k]:.0%} of the movement", showgrid=False, zeroline=False)
    title = f"{headline(found.run)} · weights of epochs {found.epochs[0]} to {found.epochs[-1]}"
    return figure.update_layout(template=TEMPLATE, title_text=title, height=560)


def _planes(landscapes: Landscapes, kind: type, **looks: Any) -> go.Figure:
    low, high, _ = np.log10(_span(landscapes))
    ticks, step = np.linspace(low, high, LEVELS + 1, retstep=True)
    level = {"start": low, "end": high - step / 2, "size": step}
    level = {"z": {"show": True, "color": "white", **level}} if kind is go.Surface else level
    columns = min(2, len(landscapes))
    rows = -(-len(landscapes) // columns)
    places = [{"type": "surface" if kind is go.Surface else "xy"}] * len(landscapes) + [None] * (columns - 1)
    specs = [places[row * columns : (row + 1) * columns] for row in range(rows)]
    words = "<b>{}</b><br>test loss {:.3g}, accuracy {:.2%}"
    titles = [words.format(item.label, item.plane.centre, item.run.metrics["test_accuracy"]) for item in landscapes]
    figure = make_subplots(rows, columns, specs=specs, subplot_titles=titles, vertical_spacing=0.3 / rows)
    for k, item in enumerate(landscapes):
        at, losses = item.plane.coordinates, item.plane.values.T
        heights = np.clip(np.log10(np.nan_to_num(losses, nan=np.inf)), low, high)
        content = {"x": at, "y": at, "z": heights, "customdata": losses, "hovertemplate": HOVER, "contours": level}
        figure.add_trace(kind(**content, coloraxis="coloraxis", **looks), k // columns + 1, k % columns + 1)
    axis = {"colorscale": "Viridis", "cmin": low, "cmax": high, "colorbar": _loss_bar(ticks)}  # even steps, in grey too
    title, height = f"{_title(landscapes)} around the trained model", 130 + (800 - 200 * columns) * rows
    figure.update_layout(template=TEMPLATE, title_text=title, coloraxis=axis, height=height, margin_t=120)
    return figure.update_annotations(font_size=12)


def _loss_bar(ticks: np.ndarray) -> dict[str, Any]:
    return {"title": {"text": "test loss<br>[nats]"}, "tickvals": ticks, "ticktext": [f"{10**t:.3g}" for t in ticks]}


def _span(landscapes: Landscapes) -> tuple[float, float, float]:
    """The lowest and the highest loss of all panels (far above guessing a network is broken alike), and guessing's."""
    values = np.concatenate([item.plane.values.ravel() for item in landscapes])
    lowest, guess = max(float(np.nanmin(values)), 1e-9), math.log(max(2, len(landscapes[0].run.classes)))
    return lowest, max(min(10 * guess, float(np.nanquantile(values, MOST))), lowest * 1.001), guess


def _title(landscapes: Landscapes) -> str:
    first = landscapes[0]
    return f"{Path(first.run.config.dataset).name} · test loss ({first.images:,} test images)"
