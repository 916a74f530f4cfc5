"""α, τ and η of a run while they move, as panels on one epoch axis; the same curves of several runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from kit.errors import KitError
from kit.figures import style
from kit.figures.cells import KINDS
from kit.figures.record import FRAMES, POINTS, Record, need, thinned
from kit.figures.show import animate
from kit.figures.style import DASHES, GREY, INK, PALETTE, SERIES, Panel, arrange, blank, headline, look, op_title
from kit.run.run import Run
from kit.space.cell import NODES

CAP = 100.0  # the colours of τ end here: a policy that has collapsed onto one pair is legible too
RATIOS = (1, 1.02, 1.05, 1.1, 1.25, 1.5, 2, 3, 5, 10, 20, 50, 100)  # ticks of these colours, and their inverses
# what cannot be compared between runs that differ in a field of the configuration
DIFFERENT = (
    *(("losses and accuracies", field) for field in ("dataset", "image_size", "train_images")),
    ("training losses and τ's entropy", "augment"),
    ("α's entropy and skips", "space"),
)
SOURCES = ("cₖ₋₂", "cₖ₋₁", *(f"node {k}" for k in range(NODES)))

# ---- curves --------------------------------------------------------------------------------------

# title, unit, factor from the stored unit, logarithmic, curves: (name in the history, its words, colour)
Entry = tuple[str, str, float, bool, Sequence[tuple[str, str, str]]]
LOSSES: tuple[Entry, ...] = (
    ("loss", "nats", 1, False, (("loss", "train", "blue"), ("val_loss", "validation", "orange"))),
    ("accuracy", "%", 100, False, (("train_accuracy", "train", "blue"), ("val_accuracy", "validation", "orange"))),
)
LEARNERS: tuple[Entry, ...] = (
    ("τ: distance from uniform", "nats", 1, False, (("tau/kl_from_uniform", "", "green"),)),
    ("τ: entropy", "nats", 1, False, (("tau/entropy", "", "green"),)),
    ("τ: most probable pair", "%", 100, False, (("tau/largest", "", "green"),)),
    ("α: largest change of a slot", "‖Δα‖₂", 1, True, (("alpha/change", "", "purple"),)),
    ("α: entropy of |α|", "nats", 1, False, (("alpha/entropy", "", "purple"),)),
    ("α: frozen slots", "slots", 1, False, (("alpha/frozen", "", "purple"),)),
    ("α: skips among the choices", "%", 100, False, (("alpha/skips", "", "black"),)),
)
ASIDE = {"accuracy", "τ: distance from uniform", "τ: most probable pair", "α: largest change of a slot"}  # in `curves`
WORDS = {"tau": "τ", "alpha": "α", "lr": "learning rate", "weight_decay": "weight decay"}


def _line_panels(records: Sequence[Record], height: float = 100) -> list[Panel]:
    """Every curve that moves: losses, η, τ and α, also what a user's own learner reports."""
    names = dict.fromkeys(name for record in records for name in record.frame)
    known = {curve[0] for *_, curves in LEARNERS for curve in curves}
    own = [name.split("/", 1) for name in names if name.startswith(("tau/", "alpha/")) and name not in known]
    more = [(f"{WORDS[a]}: {b.replace('_', ' ')}", "", 1, False, ((f"{a}/{b}", "", "sky"),)) for a, b in own]
    entries = [*LOSSES, *_hyper(records, list(names)), *LEARNERS, *more]
    return [panel for panel in (_lines(records, entry, height) for entry in entries) if panel.traces]


def _hyper(records: Sequence[Record], names: Sequence[str]) -> list[Entry]:
    """A panel for each hyper-parameter that moves: learned and effective value, or the probabilities of its options."""
    moving = [name for name in names if any(record.series(name).nunique() > 1 for record in records)]
    learned = [name.split("/") for name in moving if name.startswith("eta/")]
    bases = dict.fromkeys([*(parts[1] for parts in learned), *(n for n in ("lr", "weight_decay") if n in moving)])
    entries: list[Entry] = []
    for base in bases:
        mine = ["/".join(parts) for parts in learned if parts[1] == base]
        options = any(name.count("/") > 1 for name in mine)
        colors = ("sky", "green", "purple", "orange", "blue") if options else ("vermillion",)
        curves = [(name, name.split("/")[-1] if options else "learned", colors[k % 5]) for k, name in enumerate(mine)]
        title = f"η: {WORDS.get(base, base.replace('_', ' '))}{'' if mine else ', not learned'}"
        # the effective value is what the optimizer used at the epoch's last step
        curves.append((base, "effective", "black"))
        entries.append((title, "probability" if options else "", 1, not options, curves))
    return entries


def _lines(records: Sequence[Record], entry: Entry, height: float) -> Panel:
    title, unit, scale, log, curves = entry
    several = len(records) > 1
    traces, keys, values = [], {}, []
    for place, (name, words, color) in enumerate(curves):
        for k, record in enumerate(records):
            series = record.series(name)
            series = series[series > 0] if log else series
            if series.empty or (name.startswith("alpha/") and series.nunique() == 1 < len(series)):
                continue  # a given architecture does not move, and a limit may refuse nothing
            series = scale * series.iloc[thinned(len(series), POINTS)]
            few = "lines+markers" if len(series) <= 40 else "lines"
            shade, dash = (SERIES[k % len(SERIES)], DASHES[place % 5]) if several else (PALETTE[color], "solid")
            drawn = {"line": {"color": shade, "dash": dash}, "marker": {"size": 4, "color": shade}, "mode": few}
            told = {"name": words or title, "hovertemplate": f"epoch %{{x}}: {words} %{{y:.4~g}}<extra></extra>"}
            traces.append({"type": "scatter", "x": series.index, "y": series, **drawn, **told})
            values.append(series.to_numpy())
            keys |= {f"{'━┅┈'[min(place, 2) * several]} {words}": GREY if several else shade} if words else {}
    axis = style.log_axis(values) if log and values else {"exponentformat": "power"}
    axis = {"title": {"text": unit or ("log scale" if log else "")}, "nticks": 5, **axis}
    return Panel(title, traces, axis, height, list(keys.items()))


def curves(run: Run) -> go.Figure:
    """Loss and accuracy, η, τ and α by completed epoch; what the run's method leaves fixed has no panel.

    Raises KitError before the first epoch is completed."""
    record = need(run)
    panels = _line_panels([record], 130)
    if not panels:
        raise KitError(f"{run.path.name} has no completed epoch to draw yet ({run.status})")
    for panel in panels if run.finished else ():
        if panel.title == "accuracy":
            star = {"mode": "markers", "marker": {"symbol": "star", "size": 12, "color": PALETTE["vermillion"]}}
            at = {"x": [run.metrics["epochs"]], "y": [100 * run.metrics["test_accuracy"]], "cliponaxis": False}
            panel.traces.append({"type": "scatter", "name": "test", **star, **at})
            panel.keys = [*panel.keys, ("★ test, at the end", PALETTE["vermillion"])]
    columns = [(k * 0.37, k * 0.37 + 0.255, panels[k::3]) for k in range(3) if panels[k::3]]
    return arrange(columns, headline(run), record.spans, last=record.last, gap=70)


# ---- τ -------------------------------------------------------------------------------------------

TOLD = {True: "2^%{z} × uniform", False: "%{z}"}
NAMES = {"autorange": "reversed", "showgrid": False, "tickfont": {"size": 10}, "dtick": 1}


def _log_ratio(p: np.ndarray, count: int) -> np.ndarray:
    """log₂ of probabilities over those of a uniform distribution."""
    return np.log2(np.maximum(p.astype(float) * count, 1e-6)).round(3)


def _colors(z: np.ndarray, ratio: bool) -> dict[str, Any]:
    """Colours of probabilities, or of log₂ ratios: symmetric about 1, so that half and twice are equally strong."""
    title = {"text": "÷ uniform" if ratio else "probability", "side": "top", "font": {"size": 11}}
    if not ratio:
        return {"zmin": 0, "zmax": float(z.max()), "colorscale": style.PROBABILITY, "colorbar": {"title": title}}
    limit, at = min(max(float(np.abs(z).max()), 0.05), float(np.log2(CAP))), [0.0]
    for step in np.log2(RATIOS):  # round ratios, far enough apart to be read
        at += [float(step)] if at[-1] + limit / 4.5 <= step <= limit * 1.001 else []
    at = [-t for t in at[:0:-1]] + at
    ticks = {"tickvals": at, "ticktext": [f"{2**t:.2g}×" if t < 0 else f"{2**t:.3g}×" for t in at]}
    return {"zmin": -limit, "zmax": limit, "colorscale": style.LOW_TO_HIGH, "colorbar": {"title": title, **ticks}}


def _heat(x: Sequence, y: Sequence, z: Any, hover: str, **more: Any) -> dict[str, Any]:
    content = {"x": list(x), "y": list(y), "z": z, "hovertemplate": f"{hover}<extra></extra>"}
    return {"type": "heatmap", "ygap": 1, **content, **more}


def _maps(record: Record) -> dict[str, tuple[Panel, np.ndarray, str]]:
    """Maps under a slider: by title the panel at the last epoch, its values [epochs, rows, columns], its x axis."""
    tau, entries, found = record.tau, [], {}
    if "probabilities" in tau:
        z = _log_ratio(tau["probabilities"], tau["probabilities"][0].size)
        entries.append(("τ: pairs of operations", "second operation", record.ops, z, True))
    if "magnitude" in tau:
        bins = [f"{10 * k / max(tau['magnitude'].shape[2] - 1, 1):.2g}" for k in range(tau["magnitude"].shape[2])]
        entries.append(("τ: magnitude", "magnitude [of 10]", bins, tau["magnitude"].round(4), False))
    for title, axis, names, z, ratio in entries:
        heat = _heat(names, record.ops, z[-1], f"%{{y}}, {axis} %{{x}}: {TOLD[ratio]}", name=title, xgap=1)
        x = {"title": {"text": f"{axis} · after epoch {int(tau['epoch'][-1])}", "font": {"size": 12}}}
        x |= {"type": "category", "tickangle": -60, "showgrid": False, "tickfont": {"size": 10}, "dtick": 1}
        y = NAMES | {"title": {"text": "first operation" if ratio else "operation"}}
        panel = Panel(title, [heat | _colors(z, ratio)], y, 300, x=x, epochs=False, below=85)
        found[title] = (panel, z, axis)
    return found


def _operations(record: Record) -> list[Panel]:
    """τ's operations over the epochs, a row for each."""
    found: list[tuple[str, np.ndarray, bool]] = []
    if "probabilities" in record.tau:
        p = record.tau["probabilities"]
        both = ((which, p.sum(axis=axis)) for which, axis in (("first", 2), ("second", 1)))
        found += [(f"τ: {which} operation", _log_ratio(share, p.shape[1]), True) for which, share in both]
    found += [("τ: being applied", record.tau["apply"].round(4), False)] if "apply" in record.tau else []
    panels = []
    for title, z, ratio in found:
        at = thinned(len(z), POINTS)
        heat = _heat(record.tau["epoch"][at], record.ops, z[at].T, f"%{{y}}, epoch %{{x}}: {TOLD[ratio]}")
        panels.append(Panel(title, [heat | _colors(z, ratio)], NAMES, 14.5 * z.shape[1]))
    return panels


def _under_slider(figure: go.Figure, record: Record) -> go.Figure:
    """Let τ's maps follow a slider over the epochs."""
    maps = _maps(record)
    moving = [(k, trace.xaxis[1:], *maps[trace.name][1:]) for k, trace in enumerate(figure.data) if trace.name in maps]
    places = thinned(len(record.tau["epoch"]), FRAMES)
    epochs, frames = record.tau["epoch"][places].tolist(), []
    for place, epoch in zip(places, epochs):
        layout = {f"xaxis{axis}": {"title": {"text": f"{words} · after epoch {epoch}"}} for _, axis, _, words in moving}
        data = [{"type": "heatmap", "z": z[place]} for _, _, z, _ in moving]
        frames.append({"data": data, "traces": [k for k, *_ in moving], "layout": layout})
    return animate(figure, epochs, frames)


def tau_evolution(run: Run) -> go.Figure:
    """τ with a slider over the epochs: the probability of each ordered pair over a uniform policy's, and beside it, on
    one epoch axis, entropy and the share of each operation; where the policy learns them, also each operation's
    probability of being applied and the distribution of its magnitude. At most 60 epochs are frames.

    A fixed policy gets a note. Raises KitError before anything is recorded."""
    record = need(run)
    return _under_slider(policy(run), record) if record.tau else policy(run)


def policy(run: Run) -> go.Figure:
    """As `tau_evolution`, at the last epoch and without the slider."""
    record = need(run)
    if not record.tau:
        fixed = f"τ is fixed in this run (augment = {run.config.augment}): there is no learned policy to draw"
        return blank(fixed, headline(run))
    lines = [panel for panel in _line_panels([record]) if panel.title == "τ: entropy"]
    columns = [(0.03, 0.41, [p for p, *_ in _maps(record).values()]), (0.63, 0.93, [*lines, *_operations(record)])]
    words = "".join(f" ({value:.3g} nats from uniform)" for value in record.series("tau/kl_from_uniform").tail(1))
    return arrange(columns, f"{headline(run)} · τ{words}", record.spans, last=record.last)


# ---- α -------------------------------------------------------------------------------------------


def architecture(run: Run) -> go.Figure:
    """|α| of every candidate over the epochs, one panel per slot: thin while it competes, bold while the child uses it.

    Colours are the operations'; a panel's title names what is chosen at the last epoch. A run that does not search gets
    a note. Raises KitError where nothing is recorded."""
    record = need(run)
    if not record.searches:
        fixed = f"α is fixed in this run (arch = {run.config.arch}, space = {run.config.space}): see figures.cells"
        return blank(fixed, headline(run))
    if not record.alpha:
        raise KitError(f"{run.path.name} has no α to draw ({run.status})")
    panels = [_competition(record, i) for i in range(len(record.slots))]
    columns = [(k * 0.26, k * 0.26 + 0.21, panels[k::NODES]) for k in range(NODES) if panels[k::NODES]]
    legend = style.op_legend(record.candidates)
    title = f"{headline(run)} · α (bold: in the child; ◆: frozen)"
    return arrange(columns, title, record.spans, last=record.last, gap=92, top=140, legend=legend)


def _competition(record: Record, i: int) -> Panel:
    slot, used, at = record.slots[i], record.picked[i], thinned(len(record.alpha["epoch"]), POINTS)
    epochs, alpha = record.alpha["epoch"][at], np.abs(record.alpha["alpha"][at, i].astype(float))
    traces = []
    for c, (op, _) in enumerate(slot.candidates):
        chosen = (used[at] == c).any(axis=1)
        thin, thick = {"width": 1, "color": look(op).color}, {"width": 3, "color": look(op).color}
        common = {"type": "scatter", "x": epochs, "name": op_title(op), "mode": "lines"}
        if chosen.any() or alpha[:, c].max() > 1e-9:
            traces.append(common | {"y": alpha[:, c], "line": thin, "opacity": 0.45})
        if chosen.any():
            traces.append(
                common
                | {
                    "y": np.where(chosen, alpha[:, c], np.nan),
                    "line": thick,
                    "mode": "lines+markers",
                    "marker": {"size": 4},
                }
            )
    kind, _, place = slot.name.partition("/")
    title = f"<b>{KINDS[kind]}, node {place}</b>" if record.cells else f"<b>{slot.name.replace('/', ' ')}</b>"
    title += "".join(f"<br>{_told(record, i, c)}" for c in used[-1] if c >= 0)
    notes = [{"text": "◆", "x": e, "y": 0, "yanchor": "bottom"} for e in record.froze(i)]
    top = max(1.08 * float(np.abs(record.alpha["alpha"]).max()), 1e-9)
    axis = {"range": [0, top], "title": {"text": "" if i % NODES else "|α|"}, "nticks": 5}
    return Panel(title, traces, axis, 150, notes=notes)


def _told(record: Record, i: int, c: int) -> str:
    """A candidate in words: operation and, in a cell, input."""
    if c < 0:
        return "nothing"
    op, edge = record.slots[i].candidates[c]
    return op_title(op) + (f" ← {SOURCES[edge]}" if record.cells else "")


def _picks_panel(record: Record) -> Panel:
    """A row for each operation of each slot, in its colour as long as it is in use; a diamond where the slot froze."""
    ops, at = record.candidates, thinned(len(record.alpha["epoch"]), POINTS)
    rows, words, ticks, marks = [], [], {}, []
    for i, slot in enumerate(record.slots):
        label = slot.name.replace("/", " ")
        ticks[len(rows) + (slot.takes - 1) / 2] = label
        marks += [(e, len(rows) + (slot.takes - 1) / 2) for e in record.froze(i)]
        for column in record.picked[i][at].T:
            rows.append([ops.index(slot.candidates[c][0]) if c >= 0 else None for c in column])
            words.append([f"{label}: {_told(record, i, c)}" for c in column])
    steps = [[(k + end) / len(ops), look(op).color] for k, op in enumerate(ops) for end in (0, 1)]
    scale = {"zmin": -0.5, "zmax": len(ops) - 0.5, "colorscale": steps, "showscale": False, "text": words}
    heat = _heat(record.alpha["epoch"][at], range(len(rows)), rows, "epoch %{x}, %{text}", **scale)
    white = {"symbol": "diamond", "size": 10, "color": "white", "line": {"color": INK, "width": 1.5}}
    diamonds = {"type": "scatter", "x": [x for x, _ in marks], "y": [y for _, y in marks], "mode": "markers"}
    axis = {"tickvals": list(ticks), "ticktext": list(ticks.values()), "tickfont": {"size": 10}, "showgrid": False}
    traces = [heat, diamonds | {"marker": white, "cliponaxis": False, "hoverinfo": "x"}]
    title, range_ = "α: operations in the child", [len(rows) - 0.5, -0.5]
    return Panel(title, traces, axis | {"range": range_}, 13 * len(rows), [("◇ frozen", INK)] if marks else [])


# ---- everything ----------------------------------------------------------------------------------


def evolution(runs: Run | Sequence[Run]) -> go.Figure:
    """One run: losses, η (learned and effective), τ, α and the operations in the child on one epoch axis; beside them
    τ's pairs at the slider's epoch and its operations over the epochs. Several runs: the same curves overlaid, and what
    cannot be compared in words.

    Curves have at most 240 points and the slider at most 60 epochs, both ends among them. A run that is still going or
    has failed is drawn up to where it is. Raises KitError where nothing is recorded, or for no runs."""
    records = [need(run) for run in ([runs] if isinstance(runs, Run) else runs)]
    if len(records) != 1:
        return _side_by_side(records)
    (record,) = records
    left = [panel for panel in _line_panels(records) if panel.title not in ASIDE]
    left += [_picks_panel(record)] if record.alpha else []
    right = [*(panel for panel, *_ in list(_maps(record).values())[:1]), *_operations(record)[:2]] if record.tau else []
    columns = [(0, 0.46 if right else 1, left), *([(0.62, 0.93, right)] if right else [])]
    title = headline(record.run) + ("" if record.tau else " · τ is fixed")
    legend = style.op_legend(record.candidates)
    figure = arrange(columns, title, record.spans, last=record.last, top=120, legend=legend)
    return _under_slider(figure, record) if right else figure


def _side_by_side(records: Sequence[Record]) -> go.Figure:
    if not records:
        raise KitError("no runs to draw: give kit.Run.load(path), or a list of such runs")
    alike = len({record.run.config.space for record in records}) == 1
    panels = [p for p in _line_panels(records, 130) if alike or not p.title.startswith(("α: e", "α: s"))]
    names = zip(records, SERIES * len(records))
    looks = {"type": "scatter", "x": [None], "y": [None], "mode": "lines"}
    legend = [looks | {"name": record.run.path.name, "line": {"color": c, "width": 3}} for record, c in names]
    title, last, top = f"{len(records)} runs side by side", max(r.last for r in records), 110 + 11 * len(records)
    figure = arrange([(0, 0.43, panels[::2]), (0.57, 1, panels[1::2])], title, last=last, top=top, legend=legend)
    words = [f"not comparable: {text}" for text in _differences(records)]
    figure.update_layout(height=figure.layout.height + 18 * len(words), margin_b=60 + 18 * len(words))
    return style.note(figure, "<br>".join(words), below=48)


def comparable(runs: Sequence[Run]) -> str:
    """What of these runs cannot be compared, in a few lines of text."""
    found = _differences([need(run) for run in runs])
    words = "Not comparable:" if found else "Everything that they recorded is comparable."
    return "\n".join([f"{len(runs)} runs. {words}", *(f"- {text}" for text in found)])


def _differences(records: Sequence[Record]) -> list[str]:
    found = []
    for what, field in DIFFERENT:
        values = sorted({str(getattr(record.run.config, field)) for record in records})
        found += [f"{what}: the runs differ in {field} ({', '.join(values)})"] if len(values) > 1 else []
    return found
