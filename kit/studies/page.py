"""One self-contained HTML page of a run: `page.write(run)`, or `python -m kit.studies.page RUN [OUT]`.

It shows what the run directory holds. A run that goes on, failed, or was made by an older version has a page too, which
says what is missing.
"""

from __future__ import annotations

import datetime
import functools
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from kit import augment, figures
from kit.config import Config
from kit.errors import KitError
from kit.methods import METHODS
from kit.run import store
from kit.studies.known import Known
from kit.run.run import Run
from kit.studies.markup import Picture, Raw, document, table, text

TOP_PAIRS = 10
METRICS = {  # title and unit
    "test_loss": ("test loss", "nats"),
    "val_loss": ("validation loss", "nats"),
    "seconds": ("wall-clock", "s"),
    "peak_memory_mb": ("peak memory", "MB"),
    "params": ("parameters", ""),
    "macs": ("multiply-adds", ""),
    "train_images": ("training images", ""),
}


@dataclass(frozen=True)
class Section:
    """A figure of the page: its heading and functions of `kit.figures`, of which the first is drawn that the run has
    enough for.
    """

    heading: str
    figures: tuple[str, ...]


SECTIONS = (
    Section("While it trained", ("curves",)),
    Section("α, τ and η over the epochs", ("evolution",)),
    Section("τ: the augmentation policy at the end", ("policy",)),
    Section("α: the architecture", ("architecture",)),
    Section("The cells", ("cells_animated", "cells", "cell")),
)
TAKES: dict[str, Callable[[Run], Any]] = {"cell": lambda run: run.genotype}  # the other functions take the run itself

LOADING = """import kit

run = kit.Run.load({path!r})
model = run.model()           # uint8 images [N, {shape}] → class scores [N, {classes}]; normalises by itself
run.predict(images)           # .labels, .probabilities, .names
run.export("model.onnx", format="onnx")   # or "torch", "safetensors"
"""


def write(run: Run | str | Path, path: str | Path | None = None) -> Path:
    """Write the page of a run, or of the run directory at a path, to `path` (default: report.html in the run
    directory); return where.

    Raises KitError when there is no run (with the runs found nearby), and when the page cannot be written.
    """
    run = run if isinstance(run, Run) else Run.load(run)
    path = Path(path).expanduser() if path is not None else run.path / "report.html"
    path = path / f"{run.path.name}.html" if path.is_dir() else path
    page = render(run)
    store.atomically(
        path,
        lambda p: p.write_text(page, encoding="utf-8"),
        mend=f"name another file, as in make report RUN={run.path} OUT=report.html",
    )
    return path


def render(run: Run) -> str:
    """The page as text, under 10 MB. The same run directory gives the same text."""
    known = Known(run)
    blocks: list[Raw | Picture] = [_guarded(block, run, known) for block in (_header, _state, _result)]
    for section in SECTIONS:
        blocks += _drawn(section, run)
    blocks += [_guarded(block, run, known) for block in (_found, _use, _configuration, _provenance)]
    return document(_title(run), blocks)


def _guarded(block: Callable[[Run, Known], Raw], run: Run, known: Known) -> Raw:
    """A part of the page; what one part cannot make of a damaged file does not take the others with it."""
    try:
        return block(run, known)
    except Exception as error:  # files of a run directory may hold anything
        reason = f"A part of this page is missing: the run's files do not hold what they should ({type(error).__name__}: {error})."
        return Raw(f"<p class=note>{text(reason)}</p>")


# ---- blocks --------------------------------------------------------------------------------------


def _title(run: Run) -> str:
    config, method = run.config, str(getattr(run.config, "method", "?"))
    title = METHODS[method].title if method in METHODS else method
    return f"{str(config.dataset).rstrip('/').rsplit('/', 1)[-1]} · {title} · seed {config.seed}"


def _header(run: Run, known: Known) -> Raw:
    m, place = known.metrics, known.provenance
    facts = [
        f"{m[name]:,} {title}"
        for name, title in (("params", "parameters"), ("macs", "multiply-adds"))
        if isinstance(m.get(name), int)
    ]
    if isinstance(m.get("test_accuracy"), float):
        facts.insert(0, f"test accuracy {m['test_accuracy']:.2%}")
    if isinstance(m.get("seconds"), (int, float)):
        facts.append(
            f"{m['seconds']:,.0f} s on {place.get('device', '?')} ({place.get('processor', '?')}, {place.get('threads', '?')} thread(s))"
        )
    return Raw(
        f"<h1>{text(_title(run))}</h1><p>{text(' · '.join(facts))}</p><p class=note>Run <code>{text(run.path.name)}</code></p>"
    )


def _state(run: Run, known: Known) -> Raw:
    """Nothing for a run that is whole; else how far it came, why it ended and what is missing."""
    lines, kind = [], "unfinished"
    epochs = known.config.get("epochs", "?")
    if run.status != "finished":
        done = known.last.get("epoch", 0)
        files = [p for p in (run.path / "history.parquet", run.path / "config.json") if p.is_file()]
        written = datetime.datetime.fromtimestamp(files[0].stat().st_mtime).strftime("%Y-%m-%d %H:%M") if files else "?"
        word = "It failed" if run.status == "failed" else "It is not finished: it was interrupted, or still goes on"
        lines.append(
            f"{word}. {done} of {epochs} epochs are completed, the last written at {written}. This page shows what there is."
        )
    extra = ""
    if known.failure:
        kind = "failed"
        at = f" (epoch {known.failure.get('epoch', '?')}, step {known.failure.get('step', '?')})"
        lines.append(f"{known.failure.get('error', 'Error')}: {known.failure.get('message', '')}{at}")
        extra = f"<details><summary>Traceback</summary><pre>{text(known.failure.get('traceback', ''))}</pre></details>"
    lines += [f"Incomplete: {problem}." for problem in known.problems]
    if known.lacking:
        named = ", ".join(known.lacking[:8]) + f" and {len(known.lacking) - 8} more" * (len(known.lacking) > 8)
        lines.append(f"Made by an older version of kit: its configuration does not say {named}.")
    return Raw(
        f"<div class='banner {kind}'>{''.join(f'<p>{text(line)}</p>' for line in lines)}{extra}</div>" if lines else ""
    )


def _result(run: Run, known: Known) -> Raw:
    m = known.metrics
    if not m:
        if not known.last:
            return Raw("<h2>Result</h2><p>No epoch is completed yet.</p>")
        names = [
            name
            for name in ("loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "weight_decay")
            if name in known.last
        ]
        rows = [(name, _number(known.last[name])) for name in names]
        what = f"After epoch {known.last['epoch']} (training values are of augmented images; the test set has not been looked at):"
        return Raw(f"<h2>Result</h2><p>{text(what)}</p>{table(rows)}")
    rows = [
        ("test accuracy", _accuracy(m.get("test_accuracy"), m.get("test_images"), "test")),
        ("validation accuracy", _accuracy(m.get("val_accuracy"), m.get("val_images"), "validation")),
    ]
    for name, value in m.items():
        if name not in ("test_accuracy", "val_accuracy", "test_images", "val_images") and value is not None:
            title, unit = METRICS.get(name, (name.replace("_", " "), ""))
            rows.append((title, f"{_number(value)} {unit}".strip()))
    note = (
        "The test set was evaluated once, at the end; nothing was selected by it. The interval is Wilson's, 95%, over the images: it is of "
        "this one run and says nothing about other seeds."
    )
    return Raw(f"<h2>Result</h2>{table(rows)}<p class=note>{note}</p>")


def _accuracy(value: Any, n: Any, what: str) -> str:
    if not isinstance(value, (int, float)):
        return "nothing was held out" if what == "validation" else "not recorded"
    if not isinstance(n, int) or n < 1 or not 0 <= value <= 1:
        return f"{value:.2%} (of {_plain(n)} images)"
    k = min(n, max(0, round(value * n)))
    interval = stats.binomtest(k, n).proportion_ci(0.95, "wilson")
    return f"{value:.2%} [{interval.low:.2%}, {interval.high:.2%}], n = {n:,} {what} images"


def _drawn(section: Section, run: Run) -> list[Raw | Picture]:
    """The section's figure under its heading, or why there is none."""
    reasons = []
    for name in filter(functools.partial(hasattr, figures), section.figures):
        try:
            figure = getattr(figures, name)(TAKES[name](run) if name in TAKES else run)
            if figure.data:
                return [Raw(f"<h2>{text(section.heading)}</h2>"), Picture(figure)]
            reasons += [note.text for note in figure.layout.annotations]  # nothing drawn: it says why
        except KitError as error:
            reasons.append(str(error))
        except (
            Exception
        ) as error:  # a run of an older version, or a damaged one, may lack anything: the rest of the page stands
            reasons.append(f"This run does not hold what the figure needs ({type(error).__name__}: {error})")
    return [Raw(f"<h2>{text(section.heading)}</h2>"), Raw(f"<p class=note>{text(reasons[0])}</p>")] if reasons else []


def _found(run: Run, known: Known) -> Raw:
    """Genotype, the policy's most and least probable pairs, η."""
    parts = ["<h2>What it found</h2>"]
    genotype = known.model.get("genotype")
    if genotype:
        parts.append(f"<h3>Genotype</h3><pre><code>{text(_genotype(genotype))}</code></pre>")
    parts.append(_policy(run, known))
    rows = [
        (title, _number(at), _number(known.config[name]) if name in known.config else "not recorded")
        for name, title in (("lr", "learning rate (without the schedule's factor)"), ("weight_decay", "weight decay"))
        if (at := known.model["hyper"].get(name, known.last.get(f"eta/{name}"))) is not None
    ]
    if rows:
        head = ("η", "at the end" if run.finished else f"after epoch {known.last.get('epoch')}", "at the start")
        parts.append(f"<h3>η: hyper-parameters ({text(known.config.get('hyper', '?'))})</h3>{table(rows, head)}")
    return Raw("".join(parts)) if len(parts) > 2 or rows or parts[-1] else Raw("")


def _genotype(genotype: Any) -> str:
    """JSON with one line per node."""
    if not isinstance(genotype, dict) or not all(isinstance(nodes, list) for nodes in genotype.values()):
        return json.dumps(genotype)
    cells = [
        f"  {json.dumps(kind)}: [\n" + ",\n".join(f"    {json.dumps(node)}" for node in nodes) + "\n  ]"
        for kind, nodes in genotype.items()
    ]
    return "{\n" + ",\n".join(cells) + "\n}"


def _policy(run: Run, known: Known) -> Raw:
    saved = known.model["policy"]
    p = known.tau
    if p is None:
        name = saved.get("name", known.config.get("augment"))
        return Raw(
            f"<h3>τ: augmentation policy</h3><p>Fixed: <code>{text(name)}</code></p>"
            if name and not known.problems
            else ""
        )
    ops = list(saved.get("ops") or augment.OPS)
    ops = ops if len(ops) == len(p) else [f"operation {i}" for i in range(len(p))]
    order = np.argsort(-p, axis=None, kind="stable")

    def pairs(indices: Sequence[int]) -> Raw:
        rows = [
            (ops[i // len(p)], ops[i % len(p)], f"{p.flat[i]:.3%}", f"{p.flat[i] * p.size:.3g} ×")
            for i in map(int, indices)
        ]
        return table(rows, ("first", "then", "probability", "÷ uniform"))

    ends = (("Most probable", order[:TOP_PAIRS]), ("Least probable", order[::-1][:TOP_PAIRS]))
    columns = "".join(f"<div><p>{title}</p>{pairs(indices)}</div>" for title, indices in ends)
    heading = f"τ: augmentation policy ({known.config.get('augment', '?')}), {p.size} ordered pairs"
    return Raw(f"<h3>{text(heading)}</h3><div class=columns>{columns}</div>")


def _use(run: Run, known: Known) -> Raw:
    network = known.model["network"]
    if not network:
        return _going_on(run, known)
    shape = ", ".join(str(n) for n in network.get("image", ("C", "H", "W")))
    code = LOADING.format(path=str(run.path), shape=shape, classes=network.get("classes", "classes"))
    classes = known.model.get("classes") or []
    return Raw(
        f"<h2>Use the trained network</h2><pre><code>{text(code)}</code></pre><details><summary>{len(classes)} classes</summary>"
        f"<p>{text(', '.join(map(str, classes)))}</p></details>"
    )


def _going_on(run: Run, known: Known) -> Raw:
    try:
        same = run.config.name == run.path.name
    except (
        KeyError,
        AttributeError,
        TypeError,
    ):  # a configuration of another version: what it calls itself, this one cannot say
        same = False
    if run.finished or not same:
        return Raw(
            "<h2>Use the trained network</h2><p>There is none to load. <code>kit.search</code> with a configuration of this version makes "
            "one.</p>"
        )
    code = f"import kit\n\nrun = kit.Run.load({str(run.path)!r})\nkit.search(run.config, out={str(run.path.parent)!r})   # from the last checkpoint"
    return Raw(f"<h2>Go on with it</h2><pre><code>{text(code)}</code></pre>")


def _configuration(run: Run, known: Known) -> Raw:
    usual = _usual(known.config)
    rows, different = [], []
    for name, value in known.config.items():
        field = Config.model_fields.get(name)
        about = (field.description or "") if field else "not a field of this version of kit"
        changed = name in usual and usual[name] != value and name not in ("dataset", "seed", "out", "root", "device")
        if changed:
            different.append(f"{name} = {_plain(value)} (usually {_plain(usual[name])})")
        rows.append((name, Raw(f"<b>{text(_plain(value))}</b>") if changed else _plain(value), about))
    chosen = ", ".join(f"{name} = {_plain(known.config.get(name))}" for name in ("dataset", "method", "preset", "seed"))
    changes = f"; other than this version's preset and method fill: {', '.join(different)}" if different else ""
    return Raw(
        f"<h2>Configuration</h2><p>{text(chosen + changes)}.</p><details><summary>All {len(rows)} fields</summary>"
        f"{table(rows, ('field', 'value', 'meaning'))}</details>"
    )


def _usual(config: dict[str, Any]) -> dict[str, Any]:
    try:
        return Config(dataset="digits", method=config.get("method"), preset=config.get("preset")).model_dump()
    except KitError:  # a method or preset of another version
        return {}


def _provenance(run: Run, known: Known) -> Raw:
    if not known.provenance:
        return Raw("<h2>Where it comes from</h2><p>Hardware, commit and versions are recorded when a run finishes.</p>")
    rows = []
    for name, value in known.provenance.items():
        shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else _number(value)
        rows.append((name.replace("_", " "), shown))
    return Raw(
        f"<h2>Where it comes from</h2>{table(rows)}<p class=note>A + after the commit marks uncommitted changes.</p>"
    )


def _plain(value: Any) -> str:
    return "–" if value is None else str(value)


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _plain(value)
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
