"""One run's figures: losses, η, τ, α while they move, τ's map, α's competition, predictions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from kit import augment
from kit.data import ImageSets
from kit.errors import KitError
from kit.figures import style
from kit.figures.cells import supernet
from kit.figures.style import SERIES, SKY, TEMPLATE, VERMILLION, blank, headline, legend_below, look, name_facets
from kit.methods import Stage
from kit.run import store
from kit.run.run import Prediction, Run

# where a name of the history is drawn: panel and line; others by their names, see `_place`
CURVES = {
    "loss": ("loss [nats]", "training"),
    "val_loss": ("loss [nats]", "validation"),
    "train_accuracy": ("accuracy [%]", "training"),
    "val_accuracy": ("accuracy [%]", "validation"),
    "lr": ("η: lr", "effective"),
    "weight_decay": ("η: weight decay", "effective"),
    "tau/entropy": ("τ: entropy [nats]", "τ"),
    "tau/kl_from_uniform": ("τ: distance from uniform [nats]", "τ"),
    "tau/largest": ("τ: most probable pair [%]", "τ"),
    "alpha/entropy": ("α: entropy of |α| [nats]", "α"),
    "alpha/change": ("α: largest change of a slot", "α"),
    "alpha/frozen": ("α: frozen slots", "α"),
    "alpha/skips": ("α: skips among the choices [%]", "α"),
}
LETTERS = {"eta": "η", "tau": "τ", "alpha": "α"}
LINES = ("training", "η", "τ", "α", "validation", "", "effective")
PER_ROW, COLUMNS = 6, 2  # pictures and panels beside each other


def standing(run: Run) -> str:
    """One line for the top of a page: the run, how far it came, what it reached, and what went wrong."""
    done = run.history["epoch"].max() if len(run.history) else 0
    parts = [f"{run.path.name}: {run.status}, {done} of {run.config.epochs} epochs"]
    parts += [f"{stage.name} to epoch {last}" for stage, _, last in _stages(run)]
    parts += [f"{run.failure['error']}: {run.failure['message']}"] if run.failure else []
    parts += ["kit.search with its configuration goes on with it"] if run.status in ("failed", "interrupted") else []
    parts += [f"test accuracy {run.metrics['test_accuracy']:.2%}"] if run.finished else []
    parts += [f"{words}: {sentence}" for words, sentence in run.warnings.items()]
    return "; ".join(parts)


def _stages(run: Run) -> list[tuple[Stage, int, int]]:
    """Each stage so far, the epoch that it begins after, and the last that is completed."""
    rows = run.history[run.history["name"] == "stage"]
    return [(run.config.stages[int(k)], e.min() - 1, e.max()) for k, e in rows.groupby("value")["epoch"]]


def _shaded(figure: go.Figure, run: Run) -> go.Figure:
    for stage, first, last in _stages(run):
        if stage.search:
            figure.add_vrect(x0=first, x1=last, fillcolor=SKY, opacity=0.13, line_width=0, layer="below")
    return figure


def curves(run: Run, maps: Sequence[tuple[str, go.Heatmap]] = ()) -> go.Figure:
    """Loss and accuracy, η, τ and α by completed epoch, in two columns, and maps over the same epochs; what does not
    move has no panel. The search stage is shaded. Raises KitError before the first epoch is completed."""
    frame = _tidy(run)
    panels = list(frame.groupby("panel", sort=False))
    rows = -(-len(panels) // COLUMNS)
    specs = [[{}] * COLUMNS] * rows + [[{"colspan": COLUMNS}, *[None] * (COLUMNS - 1)]] * len(maps)
    titles = [name for name, _ in [*panels, *[("", None)] * (COLUMNS * rows - len(panels)), *maps]]
    heights = [150] * rows + [260] * len(maps)
    tall = sum(heights) + 70 * len(heights)
    gaps = {"vertical_spacing": 70 / tall, "horizontal_spacing": 0.08}
    figure = make_subplots(len(heights), COLUMNS, specs=specs, row_heights=heights, subplot_titles=titles, **gaps)
    looks = {"x": "epoch", "y": "value", "markers": frame["epoch"].nunique() <= 30}
    looks |= {"color": "line", "color_discrete_map": dict(zip(LINES, SERIES))}
    for k, (_, mine) in enumerate(panels):
        figure.add_traces(px.line(mine, **looks).data, rows=k // COLUMNS + 1, cols=k % COLUMNS + 1)
    for row, (_, heat) in enumerate(maps, start=rows + 1):
        low, high = next(figure.select_yaxes(row=row)).domain
        heat.colorbar.update(y=low, yanchor="bottom", len=high - low, thickness=14)
        figure.add_trace(heat, row, 1).update_yaxes(autorange="reversed", dtick=1, row=row)
    first = {trace.name: trace for trace in reversed(figure.data)}
    figure.for_each_trace(lambda trace: trace.update(showlegend=trace.type != "heatmap" and trace is first[trace.name]))
    figure.update_xaxes(matches="x").update_xaxes(title_text="epoch", row=len(heights))
    accuracy = f" · test accuracy {run.metrics['test_accuracy']:.2%}" if run.finished else ""
    figure.update_layout(template=TEMPLATE, title_text=headline(run) + accuracy)
    return _shaded(legend_below(figure, tall + 170), run)


def _tidy(run: Run) -> pd.DataFrame:
    """Columns panel, line, epoch, value: every curve that moves, of the learners' own quantities too."""
    if run.history.empty:
        raise KitError(f"{run.path.name} has no completed epoch to draw yet ({run.status})")
    values = run.history.groupby("name")["value"]
    rows = run.history[(values.transform("nunique") > 1) | (values.transform("size") == 1)]
    places = rows["name"].map({name: _place(name) for name in rows["name"].unique()})
    rows = rows.assign(panel=places.str[0], line=places.str[1])
    rows["value"] *= np.where(rows["panel"].str.endswith("[%]"), 100, 1)
    return rows[rows["panel"] != ""]


def _place(name: str) -> tuple[str, str]:
    """Panel and line of a name of the history, such as a user's own "eta/optimizer/adam"; "": not drawn."""
    kind, quantity, *option = *name.split("/"), ""
    if name in CURVES or kind not in LETTERS:
        return CURVES.get(name, ("", ""))
    return f"{LETTERS[kind]}: {quantity.replace('_', ' ')}", option[0] or LETTERS[kind]


def evolution(run: Run) -> go.Figure:
    """`curves`, and under them τ's probability of each operation and how many of each the child has."""
    found, tau, alpha = [], run.tau, run.alpha
    if "probabilities" in tau:
        p = tau["probabilities"]
        ratios = _log_ratio((p.sum(axis=1) + p.sum(axis=2)) / 2).T
        found.append(("τ: operations", go.Heatmap(x=tau["epoch"], y=_ops(run), z=ratios, ygap=1, **_colors(ratios))))
    if alpha and any(stage.search for stage in run.config.stages):
        counts: dict[str, np.ndarray] = {}
        for k, slot in enumerate(supernet(run.config).slots):
            for c, (op, _) in enumerate(slot.candidates):
                counts[op] = counts.get(op, 0) + alpha["support"][:, k, c]
        names, bar = [look(op).title for op in counts], {"title": {"text": "times", "side": "right"}}
        looks = {"zmin": 0, "colorscale": style.SHARE, "colorbar": bar, "ygap": 1}
        heat = go.Heatmap(x=alpha["epoch"], y=names, z=list(counts.values()), **looks)
        found.append(("α: operations in the child", heat))
    return curves(run, found)


def policy(run: Run) -> go.Figure:
    """τ at the last epoch: the probability of each ordered pair of operations over a uniform policy's; of a policy that
    learns them each operation's magnitudes and, beside its name, how often it is applied. A fixed one gets a note."""
    figure, tau, names = tau_evolution(run, -1), run.tau, _ops(run)
    if "apply" in tau:
        figure.update_yaxes(tickvals=names, ticktext=[f"{op} {p:.0%}" for op, p in zip(names, tau["apply"][-1])])
    if "magnitude" in tau:
        z, bar = tau["magnitude"][-1], {"title": {"text": "probability"}}
        looks = {"xaxis": "x2", "colorscale": style.SHARE, "colorbar": bar}
        figure.add_heatmap(x=np.linspace(0, 10, z.shape[1]), y=names, z=z, **looks)
        right = {"domain": [0.62, 1], "title": {"text": "magnitude [of 10]"}}
        figure.update_layout(xaxis_domain=[0, 0.45], xaxis2=right, coloraxis_colorbar_x=0.46)
    return figure


def tau_evolution(run: Run, at: int | slice = slice(None)) -> go.Figure:
    """The probabilities of `policy` with a slider over the epochs `at`, or at one epoch."""
    if "probabilities" not in run.tau:
        fixed = f"τ is fixed in this run (augment = {run.config.augment}): there is no learned policy to draw"
        return blank(fixed, headline(run))
    ratios, names = _log_ratio(run.tau["probabilities"])[at], _ops(run)
    labels = {"x": "second operation", "y": "first operation", "animation_frame": "epoch"}
    looks = {"labels": labels, "aspect": "auto", "template": TEMPLATE, "title": f"{headline(run)} · τ"}
    figure = px.imshow(ratios, x=names, y=names, animation_frame=0 if ratios.ndim == 3 else None, **looks)
    if figure.frames:  # it begins where it ends
        figure.update_traces(z=figure.frames[-1].data[0].z).layout.sliders[0].active = len(figure.frames) - 1
    colors = {name.replace("z", "c"): value for name, value in _colors(ratios).items()}
    return figure.update_layout(coloraxis=colors, height=620).update_xaxes(dtick=1).update_yaxes(dtick=1)


def _ops(run: Run) -> list[str]:
    left_out = store.read_json(run.path / "data.json", {}).get("left_out", ())
    return [name for name in augment.searched(run.config.augment, run.config.operations) if name not in left_out]


def _log_ratio(p: np.ndarray) -> np.ndarray:
    return np.log2(np.maximum(p.astype(float) * p[0].size, 1e-6)).round(3)


def _colors(ratios: np.ndarray) -> dict[str, Any]:
    """Of log₂ ratios, symmetric about 1, so that half and twice are equally strong; a factor of 2 to 100."""
    limit = float(np.clip(np.abs(ratios).max(), 1, np.log2(100)))
    ticks, title = np.linspace(-limit, limit, 5), {"text": "÷ uniform", "side": "right"}
    bar = {"title": title, "tickvals": ticks, "ticktext": [f"{2**t:.2g}×" for t in ticks]}
    return {"zmin": -limit, "zmax": limit, "colorscale": style.LOW_TO_HIGH, "colorbar": bar}


def architecture(run: Run) -> go.Figure:
    """|α| of every candidate over the epochs, one panel per slot: thin while it competes, bold while the child uses it.
    A run that does not search gets a note. Raises KitError where nothing is recorded."""
    if not any(stage.search for stage in run.config.stages):
        fixed = f"α is fixed in this run (arch = {run.config.arch}, space = {run.config.space}): see figures.cells"
        return blank(fixed, headline(run))
    alpha = run.alpha
    if not alpha:
        raise KitError(f"{run.path.name} has no completed epoch to draw yet ({run.status})")
    frames = []
    for k, slot in enumerate(supernet(run.config).slots):
        for c, (op, _) in enumerate(slot.candidates):
            strength, used = np.abs(alpha["alpha"][:, k, c]), alpha["support"][:, k, c]
            lines = {"epoch": alpha["epoch"], "|α|": strength, "in the child": np.where(used, strength, np.nan)}
            frame = pd.DataFrame(lines).reindex(range(len(used) + 1))  # an empty row between two lines of one colour
            frames.append(frame.assign(slot=slot.name, operation=look(op).title, color=look(op).color))
    frame = pd.concat(frames)
    rows = -(-frame["slot"].nunique() // 4)
    height = 110 + 210 * rows
    looks = {"x": "epoch", "facet_col": "slot", "facet_col_wrap": 4, "facet_row_spacing": min(70 / height, 1 / rows)}
    colors = dict(zip(frame["operation"], frame["color"]))
    looks |= {"facet_col_spacing": 0.05, "color": "operation", "color_discrete_map": colors}
    figure, used = (px.line(frame, y=y, template=TEMPLATE, **looks) for y in ("|α|", "in the child"))
    figure.update_traces(line_width=1, opacity=0.5, showlegend=False).add_traces(used.update_traces(line_width=3).data)
    legend_below(name_facets(figure), height + 60)
    return _shaded(figure.update_layout(title_text=f"{headline(run)} · α (bold: in the child)"), run)


def predictions(images: Any, prediction: Prediction, truth: Sequence[str] = (), title: str = "") -> go.Figure:
    """Pictures, uint8 [N, C, H, W], with class and probability, coloured where that is not the name in `truth` [N]."""
    likely = prediction.probabilities.max(dim=1).values.tolist()
    words = [f"{name:.14}<br>{p:.0%}" for name, p in zip(prediction.names, likely)]
    for k, name in enumerate(truth or ()):
        if name != prediction.names[k]:
            words[k] = f'<span style="color:{VERMILLION}">{words[k]}<br>✗ {name:.14}</span>'
    return _pictures(images, words, title)


def samples(sets: ImageSets, n: int = 12) -> go.Figure:
    """Some of the training images with their classes, as many of each class as of another."""
    rows = sets.train.labels.cpu().argsort(stable=True)[torch.linspace(0, len(sets.train) - 1, n).round().long()]
    images, labels = next(sets.train.batches([rows]))
    words = [f"{sets.classes[label]:.14}" for label in labels]
    return _pictures(images, words, f"{Path(sets.name).name}: {len(sets.train) + len(sets.val):,} images to learn from")


def _pictures(images: Any, words: Sequence[str], title: str) -> go.Figure:
    pixels = torch.as_tensor(images).cpu().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    rows = -(-len(images) // PER_ROW)
    gaps = {"facet_col_spacing": 0.015, "facet_row_spacing": 0.3 / rows}
    figure = px.imshow(pixels, facet_col=0, facet_col_wrap=min(PER_ROW, len(images)), binary_string=True, **gaps)
    name_facets(figure).for_each_annotation(lambda note: note.update(text=words[int(note.text)], font_size=12))
    figure.update_xaxes(visible=False, matches=None).update_yaxes(visible=False, matches=None)
    figure.update_traces(hovertemplate=None, hoverinfo="skip")
    margin = {"l": 15, "r": 15, "b": 12, "t": 125 if title else 65}
    return figure.update_layout(template=TEMPLATE, title_text=title, height=130 + 185 * rows, margin=margin)


def confusion(truth: Sequence[str], prediction: Prediction, classes: Sequence[str], title: str = "") -> go.Figure:
    """How many images of each class, a row, were taken for each class, a column; coloured by the share of the row.
    truth: N class names."""
    counts = pd.crosstab(pd.Categorical(truth, classes), pd.Categorical(prediction.names, classes), dropna=False)
    shares, names = counts.div(counts.sum(axis=1).clip(lower=1), axis=0), [f"{name:.16}" for name in classes]
    labels = {"x": "predicted class", "y": "true class", "color": "share of the class"}
    looks = {"labels": labels, "color_continuous_scale": style.SHARE, "zmin": 0, "zmax": 1, "aspect": "auto"}
    figure = px.imshow(shares.to_numpy(), x=names, y=names, template=TEMPLATE, title=title, **looks)
    figure.update_traces(text=counts.to_numpy(), texttemplate="%{text}" if len(names) <= 20 else None)
    figure.update_xaxes(dtick=1, side="bottom").update_yaxes(dtick=1)
    return figure.update_layout(height=560, coloraxis_colorbar_title_side="right")
