"""What the landscapes of some runs say: tables, sentences, and a report of Markdown, CSV, JSON and pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kit import figures
from kit.errors import KitError
from kit.methods import METHODS
from kit.run import provenance
from kit.search.engine import pick_device
from kit.studies import render, summaries
from kit.studies.landscape.runs import Landscape, one_each
from kit.studies.landscape.surface import RADII, LossLines, Plane, bounded, interval

PICTURES = {
    "contours": "Test loss on the plane of two random directions, the same levels in all panels",
    "surfaces": "The same planes as surfaces, cut off a step above the last level",
    "lines": "Test loss along random directions: mean and 95% interval over the directions",
}


def table(landscapes: Sequence[Landscape]) -> pd.DataFrame:
    """One row per run: accuracy, test loss (the plane's centre), the mean rise at each radius with its 95% interval
    over the directions, the largest eigenvalue, and how many directions and images they rest on.
    """
    rows = []
    for item in landscapes:
        config, metrics = item.run.config, item.run.metrics
        row = {"run": item.label, "method": config.method, "seed": config.seed}
        row |= {"test_accuracy": metrics["test_accuracy"], "test_loss": float(item.plane.centre)}
        for r in RADII:
            row |= bounded(f"rise@{r:g}", item.lines.rise(r))
        row |= {"eigenvalue": item.eigenvalue, "directions": item.lines.directions}
        rows.append(row | {"images": item.images, "eigenvalue_images": item.eigenvalue_images})
    return pd.DataFrame(rows)


def by_method(landscapes: Sequence[Landscape]) -> pd.DataFrame:
    """One row per method: n runs, and means over them with 95% intervals over the runs (NaN for one run)."""
    rows = []
    for method, group in table(landscapes).groupby("method", sort=False):
        row = {"method": method, "n": len(group), "test_accuracy": group["test_accuracy"].mean()}
        for name in (*(f"rise@{r:g}" for r in RADII), "eigenvalue"):
            row |= bounded(name, interval(group[name].to_numpy()))
        rows.append(row)
    return pd.DataFrame(rows)


def findings(landscapes: Sequence[Landscape]) -> Iterator[str]:
    """Which of these trained models is flatter than the first, in words: differences of rises, paired by direction."""
    first, *others = landscapes
    for other in others:
        for r in RADII:
            difference = other.lines.rises(r) - first.lines.rises(r)
            yield _finding(r, (first.label, other.label), difference, "directions")


def method_findings(landscapes: Sequence[Landscape]) -> Iterator[str]:
    """Which method gives flatter models than the first one, in words: differences of the runs' mean rises, paired by
    seed; nothing on a method that has fewer than two seeds in common with it.
    """
    groups = table(landscapes).groupby("method", sort=False)
    (first, base), *others = ((method, group.set_index("seed")) for method, group in groups)
    for other, rows in others:
        for r in RADII:
            difference = (rows[f"rise@{r:g}"] - base[f"rise@{r:g}"]).dropna()  # of the seeds that both have
            if len(difference) > 1:
                yield _finding(r, (first, other), difference.to_numpy(), "seeds")


def _finding(radius: float, names: tuple[str, str], differences: np.ndarray, of: str) -> str:
    mean, low, high = interval(differences)
    verdict, bounds = f"one of the {of} says nothing about the difference", ""
    if not math.isnan(low):
        bounds = f" [{low:+.3g}, {high:+.3g}]"
        verdict = "not distinguishable" if low <= 0 <= high else f"{names[0] if mean > 0 else names[1]} is flatter"
    difference = f"rise of {names[1]} − rise of {names[0]} = {mean:+.3g}{bounds}"
    return f"radius {radius:g}: {difference}, n = {len(differences)} {of}: {verdict}."


# ---- on paper ------------------------------------------------------------------------------------


def write(
    landscapes: Sequence[Landscape], folder: str | Path = "reports", name: str | None = None, note: str = ""
) -> Path:
    """Write <folder>/landscape-<dataset>.md, .csv, .json (what `rewrite` needs) and pictures; returns the .md's path.

    note: a sentence about the circumstances (what else the machine did, say) that stands with the hardware.
    """
    if not landscapes:
        raise KitError("no landscapes, so there is nothing to report: landscape.compare(runs) makes them")
    runs, shown = [item.run for item in landscapes], one_each(landscapes)
    path = Path(folder) / f"{name or f'landscape-{Path(runs[0].config.dataset).name}'}.json"
    drawn = [(kind, caption, getattr(figures, f"landscape_{kind}")(shown)) for kind, caption in PICTURES.items()]
    pictures = render.save_all(drawn, path.parent, path.stem)
    around = [{name: _plain(value) for name, value in vars(item).items() if name != "run"} for item in landscapes]
    about = {"classes": len(runs[0].classes), "measured": provenance.describe(pick_device("auto"))}
    summaries.write(path, "landscape", runs, note, pictures, **about, around=around)
    return rewrite(path)


def _plain(value: Any) -> Any:
    """Planes and lines as lists and numbers."""
    if isinstance(value, (Plane, LossLines)):
        return {"coordinates": value.coordinates.tolist(), "values": value.values.tolist(), "seed": value.seed}
    return value


def rewrite(path: str | Path) -> Path:
    """Markdown and CSV of a report once more, from its JSON; returns the Markdown's path."""
    path = Path(path)
    kept, landscapes = summaries.read(path), []
    for run, held in zip(kept.runs, kept.more["around"]):
        for kind, of in (("plane", Plane), ("lines", LossLines)):
            grid = held[kind]
            held[kind] = of(np.array(grid["coordinates"]), np.array(grid["values"]), grid["seed"])
        landscapes.append(Landscape(run, **held))
    render.write_text(path.with_suffix(".csv"), table(landscapes).to_csv(index=False))
    return render.write_text(path.with_suffix(".md"), _text(landscapes, kept))


def _text(landscapes: Sequence[Landscape], kept: summaries.Summary) -> str:
    first, guess = landscapes[0], math.log(kept.more["classes"])
    off = (abs(item.plane.centre - item.run.metrics["test_loss"]) for item in landscapes)
    return render.render(
        "landscape.md.j2",
        kept=kept,
        first=first,
        config=first.run.config,
        guess=guess,
        radii=[f"{r:g}" for r in RADII],
        broken=[f"{r:g}" for r in RADII if all(i.lines.rise(r)[0] + i.lines.centre > guess for i in landscapes)],
        apart=[value for value in off if value],
        numbers=table(landscapes).to_dict("records"),
        methods=by_method(landscapes).to_dict("records"),
        method_findings=list(method_findings(landscapes)),
        findings=list(findings(one_each(landscapes))),
        titles=METHODS,
        bracketed=_bracketed,
        parameters=_parameters(landscapes),
    )


def _bracketed(row: dict[str, Any], name: str) -> str:
    low, high = row[f"{name}/low"], row[f"{name}/high"]
    return f"{row[name]:.3g}" + ("" if math.isnan(low) else f" [{low:.3g}, {high:.3g}]")


def _parameters(landscapes: Sequence[Landscape]) -> dict[str, Any]:
    """The notebook's parameters that give these landscapes."""
    item, configs = landscapes[0], [item.run.config for item in landscapes]
    methods, seeds = (",".join(dict.fromkeys(str(getattr(c, name)) for c in configs)) for name in ("method", "seed"))
    found = {"dataset": configs[0].dataset, "preset": configs[0].preset, "methods": methods, "seed": seeds}
    found |= {"steps": len(item.plane.coordinates), "radius": float(item.plane.coordinates[-1])}
    found |= {"directions": item.lines.directions, "direction_seed": item.plane.seed}
    if item.images != item.run.metrics["test_images"]:
        found["images"] = item.images
    return found | summaries.changes(configs[0])
