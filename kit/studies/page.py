"""One self-contained HTML page of a run: `page.write(run)`, or `python -m kit.studies.page RUN [OUT]`.

It shows what the run directory holds. A run that goes on, failed or was damaged has a page too, which says what is
missing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from kit import augment, figures
from kit.config import Config
from kit.errors import KitError
from kit.methods import METHODS
from kit.run.run import Run
from kit.studies import render
from kit.studies.summaries import Facts, changes
from kit.studies.tables import wilson

TOP_PAIRS = 10
UNITS = {"test_loss": "nats", "val_loss": "nats", "seconds": "s", "peak_memory_mb": "MB"}
# heading → functions that draw it, of which the first is taken that the run has enough for
FIGURES: dict[str, tuple[Callable[[Run], go.Figure], ...]] = {
    "While it trained": (figures.curves,),
    "α, τ and η over the epochs": (figures.evolution,),
    "τ: the augmentation policy at the end": (figures.policy,),
    "α: the architecture": (figures.architecture,),
    "The cells": (figures.cells_animated, figures.cells, lambda run: figures.cell(run.genotype)),
}
LOADING = """import kit

run = kit.Run.load({path!r})
model = run.model()           # uint8 images [N, {shape}] → class scores [N, {classes}]; normalises by itself
run.predict(images)           # .labels, .probabilities, .names
run.export("model.onnx", format="onnx")   # or "torch", "safetensors"
"""
GOING_ON = """import kit

run = kit.Run.load({path!r})
kit.search(run.config, out={folder!r})   # from the last checkpoint
"""


@dataclass(frozen=True)
class Table:
    """rows: cells in order; without `head` the first column names the rows. folded: the line that unfolds it."""

    rows: Sequence[Sequence[Any]]
    head: Sequence[str] = ()
    title: str = ""
    folded: str = ""


@dataclass(frozen=True)
class Block:
    """A part of the page, in the order of its fields; kind: the style class of a banner."""

    heading: str = ""
    lines: Sequence[str] = ()
    code: str = ""
    tables: Sequence[Table] = ()
    note: str = ""
    kind: str = ""


def write(run: Run | str | Path, path: str | Path | None = None) -> Path:
    """Write the page of a run, or of the run directory at a path, to `path` (default: report.html in the run
    directory); return where. Raises KitError when there is no run, and when the page cannot be written."""
    run = run if isinstance(run, Run) else Run.load(run)
    path = Path(path).expanduser() if path is not None else run.path / "report.html"
    path = path / f"{run.path.name}.html" if path.is_dir() else path
    return render.write_text(
        path, page(run), mend=f"name another file, as in make report RUN={run.path} OUT=report.html"
    )


def page(run: Run) -> str:
    """The page as text, about 10 MB at most. The same run directory gives the same text."""
    facts = Facts(run)
    headings, drawn, missing = [], [], []
    for heading, draw in FIGURES.items():
        figure, reason = _figure(draw, run)
        if figure is not None:
            headings.append(heading)
            drawn.append(figure)
        elif reason:
            missing.append(Block(heading, note=reason))
    return render.document(
        "page.html.j2",
        title=_title(run),
        name=run.path.name,
        facts=_guarded(_headline, facts),
        above=[_guarded(block, facts) for block in (_state, _result)],
        figures=zip(headings, render.interactive(drawn)),
        below=missing
        + [_guarded(block, facts) for block in (_genotype, _policy, _hyper, _use, _configuration, _provenance)],
    )


def _guarded(block: Callable[[Facts], Block], facts: Facts) -> Block:
    """What one part cannot make of a damaged file does not take the others with it."""
    try:
        return block(facts)
    except Exception as error:  # files of a run directory may hold anything
        reason = f"the run's files do not hold what they should ({type(error).__name__}: {error})"
        return Block(note=f"A part of this page is missing: {reason}.")


def _figure(draw: Sequence[Callable[[Run], go.Figure]], run: Run) -> tuple[go.Figure | None, str]:
    """The first figure that shows something, or why there is none."""
    reasons = []
    for function in draw:
        try:
            figure = function(run)
            if figure.data:
                return figure, ""
            reasons += [note.text for note in figure.layout.annotations]
        except KitError as error:
            reasons.append(str(error))
        except Exception as error:  # a damaged run may lack anything: the rest of the page stands
            reasons.append(f"This run does not hold what the figure needs ({type(error).__name__}: {error})")
    return None, next(iter(reasons), "")


# ---- blocks --------------------------------------------------------------------------------------


def _title(run: Run) -> str:
    method = METHODS[run.config.method].title if run.config.method in METHODS else run.config.method
    return f"{Path(run.config.dataset).name} · {method} · seed {run.config.seed}"


def _headline(facts: Facts) -> Block:
    m, place = facts.metrics, facts.provenance
    if not m:
        return Block()
    machine = f"{place.get('device', '?')} ({place.get('processor', '?')}, {place.get('threads', '?')} thread(s))"
    said = f"test accuracy {m['test_accuracy']:.2%} · {m['params']:,} parameters · {m['macs']:,} multiply-adds"
    return Block(lines=[f"{said} · {m['seconds']:,.0f} s on {machine}"])


def _state(facts: Facts) -> Block:
    """Nothing for a run that is whole; else how far it came, why it ended and what is missing."""
    run, failure, lines = facts.run, facts.failure, []
    if not run.finished:
        word = "It failed" if failure else "It is not finished: it was interrupted, or still goes on"
        done = f"{facts.last.get('epoch', 0)} of {run.config.epochs} epochs are completed"
        lines.append(f"{word}. {done}. This page shows what there is.")
    if failure:
        at = f"epoch {failure.get('epoch', '?')}, step {failure.get('step', '?')}"
        lines.append(f"{failure.get('error', 'Error')}: {failure.get('message', '')} ({at})")
    lines += [f"Incomplete: {problem}." for problem in facts.problems]
    return Block(lines=lines, code=failure.get("traceback", ""), kind="banner failed" if failure else "banner")


def _result(facts: Facts) -> Block:
    m = dict(facts.metrics)
    if not m:
        rows = [(name, _number(value)) for name, value in facts.last.items() if not name.startswith(("step/", "eta/"))]
        what = "After the last epoch (training values are of augmented images; the test set has not been looked at):"
        return Block("Result", [what if rows else "No epoch is completed yet."], tables=[Table(rows)])
    rows = [
        (f"{name} accuracy", _accuracy(m.pop(f"{key}_accuracy", None), m.pop(f"{key}_images", 0), name))
        for key, name in (("test", "test"), ("val", "validation"))
    ]
    rows += [(k.replace("_", " "), f"{_number(v)} {UNITS.get(k, '')}") for k, v in m.items() if v is not None]
    note = (
        "The test set was evaluated once, at the end; nothing was selected by it. The interval is Wilson's, 95%, over "
        "the images: it is of this one run and says nothing about other seeds."
    )
    return Block("Result", tables=[Table(rows)], note=note)


def _accuracy(value: float | None, n: int, name: str) -> str:
    if value is None:
        return "nothing was held out" if name == "validation" else "not recorded"
    low, high = wilson(value, n)
    return f"{value:.2%} [{low:.2%}, {high:.2%}], n = {n:,} {name} images"


def _genotype(facts: Facts) -> Block:
    """As JSON with one line per node."""
    genotype = facts.model.get("genotype")
    if not genotype:
        return Block()
    cells = [
        f"  {json.dumps(kind)}: "
        + (
            "[\n    " + ",\n    ".join(map(json.dumps, nodes)) + "\n  ]"
            if isinstance(nodes, list)
            else json.dumps(nodes)
        )
        for kind, nodes in genotype.items()
    ]
    return Block("Genotype", code="{\n" + ",\n".join(cells) + "\n}")


def _policy(facts: Facts) -> Block:
    """The most and the least probable pairs of operations."""
    saved, tau = facts.model["policy"], facts.run.tau.get("probabilities", ())
    if not len(tau):
        return Block("Augmentation policy τ", [f"Fixed: {saved.get('name', facts.run.config.augment)}"])
    p, ops = np.asarray(tau[-1], dtype=float), list(saved.get("ops") or augment.OPS)
    order = np.argsort(-p, axis=None, kind="stable")
    tables = [
        Table(
            [(ops[i // len(p)], ops[i % len(p)], f"{p.flat[i]:.3%}", f"{p.flat[i] * p.size:.3g} ×") for i in indices],
            ("first", "then", "probability", "÷ uniform"),
            title,
        )
        for title, indices in (
            ("Most probable", order[:TOP_PAIRS]),
            ("Least probable", order[::-1][:TOP_PAIRS]),
        )
    ]
    return Block(f"Augmentation policy τ ({facts.run.config.augment}), {p.size} ordered pairs", tables=tables)


def _hyper(facts: Facts) -> Block:
    rows = []
    for name, title in (("lr", "learning rate (without the schedule's factor)"), ("weight_decay", "weight decay")):
        value = facts.model["hyper"].get(name, facts.last.get(f"eta/{name}"))
        if value is not None:
            rows.append((title, _number(value), _number(getattr(facts.run.config, name))))
    table = Table(rows, ("η", "at the end" if facts.run.finished else "now", "at the start"))
    return Block(f"Hyper-parameters η ({facts.run.config.hyper})", tables=[table]) if rows else Block()


def _use(facts: Facts) -> Block:
    run, network = facts.run, facts.network
    if network:
        shape = ", ".join(map(str, network.get("image", ("C", "H", "W"))))
        code = LOADING.format(path=str(run.path), shape=shape, classes=network.get("classes", "classes"))
        return Block("Use the trained network", [f"Classes: {', '.join(facts.model.get('classes') or ['?'])}."], code)
    if run.finished or run.config.name != run.path.name:
        return Block("Use the trained network", ["There is none to load: run the configuration again."])
    return Block("Go on with it", code=GOING_ON.format(path=str(run.path), folder=str(run.path.parent)))


def _configuration(facts: Facts) -> Block:
    config = facts.run.config
    rows = [(name, _number(value), Config.model_fields[name].description or "") for name, value in config]
    changed = ", ".join(f"{name} = {value}" for name, value in changes(config).items()) or "nothing"
    chosen = f"dataset = {config.dataset}, method = {config.method}, preset = {config.preset}, seed = {config.seed}"
    table = Table(rows, ("field", "value", "meaning"), folded=f"All {len(rows)} fields")
    return Block("Configuration", [f"{chosen}; other than the preset and the method fill: {changed}."], tables=[table])


def _provenance(facts: Facts) -> Block:
    if not facts.provenance:
        return Block("Where it comes from", ["Hardware, commit and versions are recorded when a run finishes."])
    rows = [
        (
            name.replace("_", " "),
            ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else _number(value),
        )
        for name, value in facts.provenance.items()
    ]
    return Block("Where it comes from", tables=[Table(rows)], note="A + after the commit marks uncommitted changes.")


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "–" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def main(arguments: Sequence[str]) -> int:
    if not 1 <= len(arguments) <= 2:
        print("usage: python -m kit.studies.page RUN [OUT.html], or make report RUN=runs/… [OUT=…]", file=sys.stderr)
        return 2
    try:
        path = write(*arguments)
    except KitError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
