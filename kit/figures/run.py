"""α, τ and η of a run while they move, as panels on one epoch axis; the same curves of several runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from kit.errors import KitError
from kit.figures.cells import KINDS
from kit.figures.record import Record, need, thinned
from kit.figures.show import animate
from kit.figures.style import (
    DASHES,
    GREY,
    INK,
    LOW_TO_HIGH,
    PALETTE,
    PROBABILITY,
    SERIES,
    Panel,
    arrange,
    blank,
    headline,
    legend_below_title,
    log_axis,
    look,
    note,
    op_legend,
    op_title,
)
from kit.run.run import Run
from kit.space.cell import NODES

ASIDE = (
    "accuracy",
    "τ: distance from uniform",
    "τ: most probable pair",
    "α: largest change of a slot",
)  # in `curves` only
POINTS, FRAMES = 240, 60  # of a curve and of an animation, at most
CAP = 100.0  # the colours of τ end here: a policy that has collapsed onto one pair is legible too
RATIOS = (1, 1.02, 1.05, 1.1, 1.25, 1.5, 2, 3, 5, 10, 20, 50, 100)  # ticks of these colours, and their inverses
SOURCES = ("cₖ₋₂", "cₖ₋₁", *(f"node {k}" for k in range(NODES)))

# ---- curves --------------------------------------------------------------------------------------

Curve = tuple[str, str, str]  # name in the history, its words in the panel, colour
# title, unit, factor from the stored unit to the drawn one, logarithmic, curves
LOSSES = (
    ("loss", "nats", 1, False, (("loss", "train", "blue"), ("val_loss", "validation", "orange"))),
    ("accuracy", "%", 100, False, (("train_accuracy", "train", "blue"), ("val_accuracy", "validation", "orange"))),
)
LEARNERS = (
    ("τ: distance from uniform", "nats", 1, False, (("tau/kl_from_uniform", "", "green"),)),
    ("τ: entropy", "nats", 1, False, (("tau/entropy", "", "green"),)),
    ("τ: most probable pair", "%", 100, False, (("tau/largest", "", "green"),)),
    ("α: largest change of a slot", "‖Δα‖₂", 1, True, (("alpha/change", "", "purple"),)),
    ("α: entropy of |α|", "nats", 1, False, (("alpha/entropy", "", "purple"),)),
    ("α: frozen slots", "slots", 1, False, (("alpha/frozen", "", "purple"),)),
    ("α: skips among the choices", "%", 100, False, (("alpha/skips", "", "black"),)),
)


def line(x: Sequence[float], y: Sequence[float], name: str, color: str, dash: str = "solid", **more: Any) -> dict:
    """A curve; markers too where it has few points."""
    hover = f"epoch %{{x}}: {name} %{{y:.4~g}}<extra></extra>"
    look = {"line": {"color": color, "width": 2, "dash": dash}, "marker": {"size": 4, "color": color}}
    mode = "lines+markers" if len(x) <= 40 else "lines"
    return (
        {"type": "scatter", "x": list(x), "y": list(y), "mode": mode, "name": name, "hovertemplate": hover}
        | look
        | more
    )


def line_panels(records: Sequence[Record], height: float = 100) -> list[Panel]:
    """Every curve that moves: losses, η, τ and α, also what a user's own learner reports. One run has a colour for
    every curve, of several each has its own."""
    names = dict.fromkeys(name for record in records for name in record.frame)
    known = {curve[0] for *_, curves in LEARNERS for curve in curves}
    others = [
        (f"{ {'tau': 'τ', 'alpha': 'α'}[name.split('/')[0]] }: {name.split('/', 1)[1].replace('_', ' ')}", name)
        for name in names
        if name.startswith(("tau/", "alpha/")) and name not in known
    ]
    more = [(title, "", 1, False, ((name, "", "sky"),)) for title, name in others]
    entries = [*LOSSES, *_hyper(records, names), *LEARNERS, *more]
    panels = [_lines(records, entry, height) for entry in entries]
    return [panel for panel in panels if panel.traces]


def _hyper(records: Sequence[Record], names: Sequence[str]) -> list[tuple]:
    """A panel for each hyper-parameter: learned and effective value, or the probabilities of a list's entries."""
    found: dict[str, list[Curve]] = {name: [] for name in ("lr", "weight_decay") if name in names}
    spare = [color for color in PALETTE if color not in ("yellow", "black", "vermillion")]
    for name in (name for name in names if name.startswith("eta/")):
        _, base, *option = name.split("/")
        curves = found.setdefault(base, [])
        curves.append((name, option[0] if option else "learned", spare[len(curves) % 5] if option else "vermillion"))
    entries = []
    for base, curves in found.items():
        moving = any(record.series(name).nunique() > 1 for record in records for name, _, _ in curves)
        curves = [*(curves if moving else []), *([(base, "effective", "black")] if base in names else [])]
        words = {"lr": "learning rate", "weight_decay": "weight decay"}.get(base, base.replace("_", " "))
        positive = all((record.series(name) >= 0).all() for record in records for name, _, _ in curves)
        if moving or any(record.series(base).nunique() > 1 for record in records):
            title = f"η: {words}{'' if moving else ', not learned'}"
            listed = any("/" in name.removeprefix("eta/") for name, _, _ in curves)
            entries.append((title, "probability" if listed else "", 1, positive and not listed, tuple(curves)))
    return entries


def _lines(records: Sequence[Record], entry: tuple, height: float) -> Panel:
    title, unit, scale, log, curves = entry
    several = len(records) > 1
    traces, keys, values = [], [], []
    for place, (name, words, color) in enumerate(curves):
        key = GREY if several else PALETTE[color]
        for k, record in enumerate(records):
            series = record.series(name)
            if name.startswith("alpha/") and series.nunique() == 1 < len(series):
                continue  # a given architecture, a limit that refuses nothing
            series = series[series > 0] if log else series
            series = series.iloc[thinned(len(series), POINTS)] if len(series) else series
            if len(series):
                look = (SERIES[k % len(SERIES)], DASHES[place % 5]) if several else (PALETTE[color], "solid")
                marks = _search_ends(record, series.index) if several and place == 0 else {}
                traces.append(line(series.index, scale * series, words or title, *look, **marks))
                values.append(scale * series.to_numpy())
                keys += (
                    [(f"{'━┅┈'[min(place, 2) * several]} {words}", key)]
                    if words and not any(words in t for t, _ in keys)
                    else []
                )
    axis = {"title": {"text": "log scale" if log and not unit else unit}, "nticks": 5} | (
        log_axis(values) if log and values else {"exponentformat": "power"}
    )
    return Panel(title, traces, axis, height, keys)


def _search_ends(record: Record, epochs: pd.Index) -> dict[str, Any]:
    """A ring where a stage of the run ended before the last one."""
    ends = {span.last for span in record.spans[:-1]}
    few = 4 if len(epochs) <= 40 else 0
    symbols = ["circle-open" if e in ends else "circle" for e in epochs]
    return {"mode": "lines+markers", "marker": {"symbol": symbols, "size": [10 if e in ends else few for e in epochs]}}


def curves(run: Run) -> go.Figure:
    """Loss and accuracy, η, τ and α by completed epoch; what the run's method leaves fixed has no panel.

    Raises KitError before the first epoch is completed."""
    record = need(run)
    panels = line_panels([record], 130)
    accuracy = next((panel for panel in panels if panel.title == "accuracy"), None)
    if accuracy and run.finished:
        star = {"symbol": "star", "size": 12, "color": PALETTE["vermillion"]}
        point = {"x": [run.metrics["epochs"]], "y": [100 * run.metrics["test_accuracy"]], "marker": star}
        accuracy.traces.append({"type": "scatter", "mode": "markers", "name": "test", "cliponaxis": False, **point})
        accuracy.keys = [*accuracy.keys, ("★ test, at the end", PALETTE["vermillion"])]
    width = 0.255 if len(panels) > 2 else 0.32
    columns = [(k * 0.37, k * 0.37 + width, panels[k::3]) for k in range(3) if panels[k::3]]
    return arrange(columns, headline(run), record.spans, record.last, gap=70)


# ---- τ -------------------------------------------------------------------------------------------


def _log_ratio(p: np.ndarray, count: int) -> np.ndarray:
    return np.log2(np.maximum(p.astype(float) * count, 1e-6)).round(3)


def _ratio_colors(z: np.ndarray) -> dict[str, Any]:
    """Colours of log₂ ratios, symmetric about 1: half and twice as probable are equally strong."""
    limit = min(max(float(np.abs(z).max()), 0.05), float(np.log2(CAP)))
    at = [0.0]
    for ratio in RATIOS:  # round ratios, far enough apart to be read
        if np.log2(ratio) <= limit * 1.001 and np.log2(ratio) - at[-1] >= limit / 4.5:
            at.append(float(np.log2(ratio)))
    at = [-t for t in at[:0:-1]] + at
    words = [f"{2**t:.2g}×" if t < 0 else f"{2**t:.3g}×" for t in at]
    bar = {"title": {"text": "÷ uniform", "side": "top", "font": {"size": 11}}, "tickvals": at, "ticktext": words}
    return {"zmin": -limit, "zmax": limit, "colorscale": LOW_TO_HIGH, "colorbar": bar}


def _heat(name: str, x: Sequence, y: Sequence, z: np.ndarray, hover: str, **more: Any) -> dict[str, Any]:
    content = {"x": list(x), "y": list(y), "z": z, "hovertemplate": f"{hover}<extra></extra>"}
    return {"type": "heatmap", "name": name, "xgap": 1, "ygap": 1, **content, **more}


NAMES = {"autorange": "reversed", "showgrid": False, "tickfont": {"size": 10}, "dtick": 1}


def _pairs_panel(record: Record) -> Panel:
    p, ops = record.tau["probabilities"], record.ops
    z = _log_ratio(p, p[0].size)
    trace = _heat("pairs", ops, ops, z[-1], "%{y}, then %{x}: 2^%{z} × uniform", **_ratio_colors(z))
    x = {"tickangle": -60, "showgrid": False, "tickfont": {"size": 10}, "dtick": 1, "title": {"font": {"size": 12}}}
    y = {**NAMES, "title": {"text": "first operation"}}
    return Panel("τ: pairs of operations", [trace], y, 300, x=x, epochs=False, below=70)


def _magnitude_panel(record: Record) -> Panel:
    m = record.tau["magnitude"].round(4)
    bins = [f"{10 * k / max(m.shape[2] - 1, 1):.2g}" for k in range(m.shape[2])]
    bar = {"title": {"text": "probability", "side": "top", "font": {"size": 11}}, "nticks": 5}
    look = {"zmin": 0, "zmax": float(m.max()), "colorscale": PROBABILITY, "colorbar": bar}
    trace = _heat("magnitude", bins, record.ops, m[-1], "%{y}, magnitude %{x}: %{z}", **look)
    x = {"type": "category", "showgrid": False, "title": {"font": {"size": 12}}}
    return Panel("τ: distribution of the magnitude", [trace], NAMES, 260, x=x, epochs=False, below=40)


def _over_epochs(record: Record, title: str, z: np.ndarray, hover: str, look: dict[str, Any]) -> Panel:
    """A row for each operation. z: float [epochs, operations]."""
    at = thinned(len(z), POINTS)
    trace = _heat("", record.tau["epoch"][at].tolist(), record.ops, z[at].T, f"%{{y}}, epoch %{{x}}: {hover}", **look)
    return Panel(title, [trace | {"xgap": 0}], NAMES, 14.5 * z.shape[1])


def _marginal_panels(record: Record) -> list[Panel]:
    panels = []
    if "probabilities" in record.tau:
        p = record.tau["probabilities"].astype(float)
        first, second = (_log_ratio(p.sum(axis=axis), p.shape[1]) for axis in (2, 1))
        look = _ratio_colors(np.stack([first, second]))
        for which, z in (("first", first), ("second", second)):
            panels.append(_over_epochs(record, f"τ: {which} operation", z, "2^%{z} × uniform", look))
    if "apply" in record.tau:
        bar = {"title": {"text": "probability", "side": "top", "font": {"size": 11}}}
        look = {"zmin": 0, "zmax": 1, "colorscale": PROBABILITY, "colorbar": bar}
        panels.append(_over_epochs(record, "τ: being applied", record.tau["apply"].round(4), "%{z}", look))
    return panels


def _under_slider(figure: go.Figure, record: Record) -> go.Figure:
    """Let the maps of τ follow a slider over the epochs."""
    p = record.tau.get("probabilities")
    content = {"pairs": ("second operation", _log_ratio(p, p[0].size)) if p is not None else None}
    content["magnitude"] = (
        ("magnitude [of 10]", record.tau["magnitude"].round(4)) if "magnitude" in record.tau else None
    )
    moving = [(k, *content[t.name]) for k, t in enumerate(figure.data) if t.type == "heatmap" and content.get(t.name)]
    places = thinned(len(record.tau["epoch"]), FRAMES)
    epochs, frames = record.tau["epoch"][places].tolist(), []
    for place, epoch in zip(places, epochs):
        titles = {
            f"xaxis{figure.data[k].xaxis[1:]}": {"title": {"text": f"{words} · after epoch {epoch}"}}
            for k, words, _ in moving
        }
        data = [{"type": "heatmap", "z": z[place]} for _, _, z in moving]
        frames.append({"data": data, "traces": [k for k, _, _ in moving], "layout": titles})
    figure.update_layout(frames[-1]["layout"])
    return animate(figure, epochs, frames)


def tau_evolution(run: Run) -> go.Figure:
    """τ with a slider over the epochs: the probability of each ordered pair over a uniform policy's, and beside it, on
    one epoch axis, entropy and the share of each operation; where the policy learns them, also each operation's
    probability of being applied and the distribution of its magnitude. At most 60 epochs are frames.

    A fixed policy gets a note. Raises KitError before anything is recorded."""
    record = need(run)
    if not record.tau:
        return blank(_fixed(record), headline(run))
    maps = [
        make for name, make in (("probabilities", _pairs_panel), ("magnitude", _magnitude_panel)) if name in record.tau
    ]
    lines = [panel for panel in line_panels([record]) if panel.title.startswith("τ")]
    columns = [(0.02, 0.38, [make(record) for make in maps]), (0.6, 0.93, [*lines[:2], *_marginal_panels(record)])]
    figure = arrange(columns, f"{headline(run)} · τ over the epochs", record.spans, record.last)
    return _under_slider(figure, record)


def _fixed(record: Record) -> str:
    unread = [text for text in record.missing if text.startswith("τ")]
    return (
        unread[0]
        if unread
        else f"τ is fixed in this run (augment = {record.run.config.augment}): there is no learned policy to draw"
    )


def policy(run: Run) -> go.Figure:
    """τ at the last epoch: the probability of each ordered pair over that of a uniform policy, and the share of each
    operation as the first and as the second of a pair. A fixed policy gets a note."""
    record = Record(run)
    if "probabilities" not in record.tau:
        return blank(_fixed(record), headline(run))
    p, ops, epoch = record.tau["probabilities"][-1].astype(float), record.ops, int(record.tau["epoch"][-1])
    pairs = _pairs_panel(record)
    pairs.height = 440
    pairs.traces[0].update(_ratio_colors(pairs.traces[0]["z"]))
    pairs.x["title"] = {"text": "second operation"}
    bars = [
        {
            "type": "bar",
            "orientation": "h",
            "name": which,
            "x": 100 * share,
            "y": ops,
            "marker": {"color": PALETTE[color]},
        }
        for which, share, color in (("first", p.sum(axis=1), "blue"), ("second", p.sum(axis=0), "sky"))
    ]
    even = [100 / len(ops)] * 2
    rule = {"type": "scatter", "x": even, "y": [ops[0], ops[-1]], "mode": "lines", "hoverinfo": "skip"}
    bars.append(rule | {"line": {"color": INK, "width": 1, "dash": "dash"}})
    keys = [("■ first", PALETTE["blue"]), ("■ second", PALETTE["sky"]), ("┅ uniform", INK)]
    share = Panel("τ: share", bars, NAMES, 440, keys, {"title": {"text": "share [%]"}}, epochs=False)
    moved = record.series("tau/kl_from_uniform")
    words = f": {moved.iloc[-1]:.3g} nats from uniform" if len(moved) and epoch else ""
    title = f"{headline(run)} · τ after epoch {epoch}{words}"
    figure = arrange([(0.03, 0.53, [pairs]), (0.73, 1, [share])], title, top=84)
    return figure.update_layout(height=figure.layout.height + 50, margin_b=110)


# ---- α -------------------------------------------------------------------------------------------


def architecture(run: Run) -> go.Figure:
    """|α| of every candidate over the epochs, one panel per slot: thin while it competes, bold while the child uses it.

    Colours are the operations'; a panel's title names what is chosen at the last epoch. A run that does not search gets
    a note. Raises KitError where nothing is recorded."""
    if not any(stage.search for stage in run.config.stages):
        fixed = f"α is fixed in this run (arch = {run.config.arch}, space = {run.config.space}): see figures.cells"
        return blank(fixed, headline(run))
    record = need(run)
    if not record.alpha:
        raise KitError(f"{run.path.name} has no α to draw ({'; '.join(record.missing) or run.status})")
    at = thinned(len(record.alpha["epoch"]), POINTS)
    top = max(float(np.abs(record.alpha["alpha"]).max()) * 1.08, 1e-9)
    panels = [_competition(record, i, at) for i in range(len(record.slots))]
    for k, panel in enumerate(panels):
        panel.y = {"range": [0, top], "title": {"text": "|α|" if k % NODES == 0 else ""}, "nticks": 5}
    columns = [(k * 0.26, k * 0.26 + 0.21, panels[k::NODES]) for k in range(NODES) if panels[k::NODES]]
    title = f"{headline(run)} · α (bold: in the child; ◆: frozen)"
    figure = arrange(columns, title, record.spans, record.last, gap=92, top=130)
    figure.add_traces(op_legend([op for slot in record.slots for op, _ in slot.candidates]))
    return figure.update_layout(showlegend=True, legend=legend_below_title(figure.layout.height))


def _competition(record: Record, i: int, at: Sequence[int]) -> Panel:
    slot, used = record.slots[i], record.picked[i]
    epochs, alpha = record.alpha["epoch"][at], np.abs(record.alpha["alpha"][at, i])
    traces = []
    for c, (op, _) in enumerate(slot.candidates):
        chosen = (used[at] == c).any(axis=1)
        if alpha[:, c].max() <= 1e-9 and not chosen.any():
            continue
        for bold, values in ((False, alpha[:, c]), (True, np.where(chosen, alpha[:, c], np.nan))):
            if not bold or chosen.any():
                look_ = {"line": {"color": look(op).color, "width": 3 if bold else 1}, "opacity": 1 if bold else 0.45}
                few = {"mode": "lines+markers" if bold and len(at) <= 40 else "lines", "marker": {"size": 5}}
                y = values.astype(np.float32)
                traces.append({"type": "scatter", "x": epochs, "y": y, "name": op_title(op), **look_, **few})
    kind, place = slot.name.split("/")
    names = [op_title(slot.candidates[c][0]) for c in used[-1] if c >= 0]
    if record.cells:
        names = [f"{n} ← {SOURCES[slot.candidates[c][1]]}" for n, c in zip(names, (c for c in used[-1] if c >= 0))]
    title = f"{KINDS[kind]}, node {place}" if kind in KINDS else f"{kind} {place}"
    frozen = record.alpha["frozen"][:, i].astype(bool)
    mark = {"text": "◆", "x": int(record.alpha["epoch"][frozen.argmax()]), "y": 0, "yanchor": "bottom"}
    return Panel(f"<b>{title}</b><br>{'<br>'.join(names)}", traces, height=150, notes=[mark] if frozen.any() else [])


def _picks_panel(record: Record) -> Panel:
    """A row for each operation of each slot, in its colour as long as it is in use; a diamond where the slot froze."""
    ops = list(dict.fromkeys(op for slot in record.slots for op, _ in slot.candidates))
    at = thinned(len(record.alpha["epoch"]), POINTS)
    epochs, z, words, ticks, marks = record.alpha["epoch"][at], [], [], [], []
    for i, (slot, columns) in enumerate(zip(record.slots, record.picked)):
        kind, place = slot.name.split("/")
        label = f"{kind} {place}" if kind in KINDS else place
        ticks.append((len(z) + (slot.picks - 1) / 2, label))
        frozen = record.alpha["frozen"][:, i].astype(bool)
        marks += [(int(record.alpha["epoch"][frozen.argmax()]), ticks[-1][0])] if frozen.any() else []
        for column in columns[at].T:
            z.append([ops.index(slot.candidates[c][0]) if c >= 0 else None for c in column])
            inputs = [SOURCES[slot.candidates[c][1]] if record.cells and c >= 0 else "" for c in column]
            names = [op_title(slot.candidates[c][0]) if c >= 0 else "nothing" for c in column]
            words.append([f"{label}: {name}{' ← ' if source else ''}{source}" for name, source in zip(names, inputs)])
    steps = [[(k + end) / len(ops), look(op).color] for k, op in enumerate(ops) for end in (0, 1)]
    scale = {"zmin": -0.5, "zmax": len(ops) - 0.5, "colorscale": steps, "showscale": False, "text": words}
    heat = _heat("", epochs, range(len(z)), z, "epoch %{x}, %{text}", **scale)
    look_ = {"symbol": "diamond", "size": 10, "color": "white", "line": {"color": INK, "width": 1.5}}
    diamonds = {"type": "scatter", "x": [x for x, _ in marks], "y": [y for _, y in marks], "mode": "markers"}
    traces = [heat | {"xgap": 0}, diamonds | {"marker": look_, "cliponaxis": False, "hoverinfo": "x"}]
    names = {"tickvals": [y for y, _ in ticks], "ticktext": [text for _, text in ticks], "tickfont": {"size": 10}}
    axis = {**names, "range": [len(z) - 0.5, -0.5], "showgrid": False}
    return Panel("α: operations in the child", traces, axis, 13 * len(z), [("◇ frozen", INK)] if marks else [])


# ---- everything ----------------------------------------------------------------------------------


def evolution(runs: Run | Sequence[Run]) -> go.Figure:
    """One run: losses, η (learned and effective), τ, α and the operations in the child on one epoch axis; beside them
    τ's pairs at the slider's epoch and its operations over the epochs. Several runs: the same curves overlaid, and what
    cannot be compared in words.

    Curves have at most 240 points and the slider at most 60 epochs, both ends among them. A run that is still going or
    has failed is drawn up to where it is. Raises KitError where nothing is recorded, or for no runs."""
    records = [need(run) for run in ([runs] if isinstance(runs, Run) else runs)]
    if not records:
        raise KitError("no runs to draw: give kit.Run.load(path), or a list of such runs")
    if len(records) > 1:
        return _side_by_side(records)
    (record,) = records
    left = [panel for panel in line_panels(records) if panel.title not in ASIDE]
    left += [_picks_panel(record)] if record.alpha else []
    right = [_pairs_panel(record)] if "probabilities" in record.tau else []
    right += _marginal_panels(record)
    columns = [(0, 0.46 if right else 1, left), *([(0.62, 0.93, right)] if right else [])]
    words = "" if record.tau or record.missing else " · τ is fixed"
    figure = arrange(columns, headline(record.run) + words, record.spans, record.last, top=120)
    figure.add_traces(op_legend([op for slot in record.slots for op, _ in slot.candidates]))
    figure.update_layout(showlegend=True, legend=legend_below_title(figure.layout.height))
    return _under_slider(figure, record) if right else figure


def _side_by_side(records: Sequence[Record]) -> go.Figure:
    alike = len({record.run.config.space for record in records}) == 1
    panels = [panel for panel in line_panels(records, 130) if alike or not panel.title.startswith("α: e")]
    columns = [(0, 0.43, panels[::2]), (0.57, 1, panels[1::2])]
    figure = arrange(
        columns, f"{len(records)} runs side by side", last=max(r.last for r in records), top=110 + 11 * len(records)
    )
    for k, record in enumerate(records):
        line_ = {"color": SERIES[k % len(SERIES)], "width": 3}
        figure.add_scatter(x=[None], y=[None], mode="lines", name=record.run.path.name, line=line_)
    figure.update_layout(showlegend=True, legend=legend_below_title(figure.layout.height))
    words = ["○ end of a search", *(f"not comparable: {text}" for text in _differences(records))]
    figure.update_layout(height=figure.layout.height + 18 * len(words), margin_b=60 + 18 * len(words))
    return note(figure, "<br>".join(words), below=48)


def comparable(runs: Sequence[Run]) -> str:
    """What of these runs can be compared and what cannot, in a few lines of text."""
    found = _differences([need(run) for run in runs])
    words = "Not comparable:" if found else "Everything that they recorded is comparable."
    return "\n".join([f"{len(runs)} runs. {words}", *(f"- {text}" for text in found)])


def _differences(records: Sequence[Record]) -> list[str]:
    configs, found = [record.run.config for record in records], []
    data = sorted({f"{c.dataset} at {c.image_size or 'its'} pixels, {c.train_images or 'all'} images" for c in configs})
    policies, spaces = (sorted({getattr(c, name) for c in configs}) for name in ("augment", "space"))
    if len(data) > 1:
        found.append(f"losses: the runs learn from different data ({'; '.join(data)})")
    elif len(policies) > 1:
        found.append(f"training losses: the images are augmented differently ({', '.join(policies)})")
    if len(spaces) > 1:
        found.append(f"α's entropy and skips: the spaces offer different candidates ({', '.join(spaces)})")
    counts = sorted({len(record.ops) for record in records if record.tau})
    if len(counts) > 1:
        found.append(f"τ's entropy: the policies have {' and '.join(map(str, counts))} operations")
    return found
