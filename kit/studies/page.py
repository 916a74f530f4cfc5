"""One self-contained HTML page of a run: `page.write(run)`, or `python -m kit.studies.page RUN [OUT]`.

It shows what the run directory holds; the words are in templates/page.html.j2. A run that goes on, failed or was
damaged has a page too, which says what is missing.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
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
# heading → functions that draw it, of which the first is taken that the run has enough for
FIGURES: dict[str, tuple[Callable[[Run], go.Figure], ...]] = {
    "While it trained": (figures.curves,),
    "α, τ and η over the epochs": (figures.evolution,),
    "τ: the augmentation policy at the end": (figures.policy,),
    "α: the architecture": (figures.architecture,),
    "The cells": (figures.cells,),
}


def write(run: Run | str | Path, path: str | Path | None = None) -> Path:
    """Write the page of a run, or of the run directory at a path, to `path` (default: report.html in the run
    directory); return where. Raises KitError when there is no run, and when the page cannot be written."""
    run = run if isinstance(run, Run) else Run.load(run)
    path = Path(path).expanduser() if path is not None else run.path / "report.html"
    path = path / f"{run.path.name}.html" if path.is_dir() else path
    mend = f"name another file, as in make report RUN={run.path} OUT=report.html"
    return render.write_text(path, page(run), mend=mend)


def page(run: Run) -> str:
    """The page as text, about 10 MB at most. The same run directory gives the same text."""
    facts, config = Facts(run), run.config
    found = [(heading, *_figure(draw, run)) for heading, draw in FIGURES.items()]
    drawn = iter(render.interactive([figure for _, figure, _ in found if figure is not None]))
    return render.document(
        "page.html.j2",
        title=f"{Path(config.dataset).name} · {METHODS[config.method].title} · seed {config.seed}",
        run=run,
        facts=facts,
        config=config,
        accuracies=[(f"{part}_accuracy", _accuracy(facts.metrics, part)) for part in ("test", "val")],
        figures=[(heading, figure and next(drawn), reason) for heading, figure, reason in found],
        genotype=_genotype(facts.model.get("genotype")),
        policy=_policy(run, facts),
        changes=changes(config),
        about={name: field.description or "" for name, field in Config.model_fields.items()},
    )


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
        except Exception as error:  # a damaged run may hold anything: the rest of the page stands
            reasons.append(f"This run does not hold what the figure needs ({type(error).__name__}: {error})")
    return None, next(iter(reasons), "")


def _accuracy(metrics: dict[str, Any], part: str) -> str:
    value, n = metrics.get(f"{part}_accuracy"), metrics.get(f"{part}_images")
    if value is None:
        return "nothing was held out"
    try:
        low, high = wilson(value, n)
    except (TypeError, ValueError):  # altered files
        return f"{value}, of {n} images"
    return f"{value:.2%} [{low:.2%}, {high:.2%}], n = {n:,} images"


def _genotype(genotype: Any) -> str:
    """JSON with a line per node."""
    return re.sub(r"\n {6,}|\n {4}(?=\])", " ", json.dumps(genotype, indent=2)) if genotype else ""


def _policy(run: Run, facts: Facts) -> pd.DataFrame | None:
    """The most and the least probable pairs of operations; None where τ is fixed."""
    try:
        p = np.asarray(run.tau["probabilities"][-1], dtype=float)
        ops = list(facts.model["policy"].get("ops") or augment.OPS)
        names = [f"{first}, then {then}" for first in ops for then in ops]
        order = np.argsort(-p, axis=None, kind="stable")
        columns = {}
        for title, pairs in (("most probable", order[:TOP_PAIRS]), ("least probable", order[::-1][:TOP_PAIRS])):
            columns[title] = [names[i] for i in pairs]
            columns[f"probability of the {title}"] = [
                f"{p.flat[i]:.3%}, {p.flat[i] * p.size:.3g} × uniform" for i in pairs
            ]
        return pd.DataFrame(columns)
    except (KitError, LookupError):  # without a learned policy, or damaged
        return None


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
