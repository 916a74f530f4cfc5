"""What the landscapes of some runs say: their table, and their report."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kit import figures
from kit.run import provenance
from kit.run.run import Run
from kit.studies import tables
from kit.studies.landscape import RADII, Landscape, one_each

TEMPLATE = "landscape.md.j2"
PICTURES = {
    "contours": "Test loss on the plane of two random directions, the same levels in all panels",
    "surfaces": "The same planes as surfaces, cut off a step above the last level",
    "lines": "Test loss along random directions: mean and 95% interval over the directions",
}


def table(landscapes: Sequence[Landscape]) -> pd.DataFrame:
    """One row per run: accuracy, test loss (the plane's centre), the mean rise at each radius with its 95% interval
    over the directions, the largest eigenvalue, and how many directions and images they rest on."""
    rows = []
    for item in landscapes:
        config, metrics = item.run.config, item.run.metrics
        row = {"run": item.label, "method": config.method, "seed": config.seed}
        row |= {"test_accuracy": metrics["test_accuracy"], "test_loss": float(item.plane.centre), **item.lines.rises()}
        row |= {"eigenvalue": item.eigenvalue, "directions": len(item.lines.values)}
        rows.append(row | {"images": item.images, "eigenvalue_images": item.eigenvalue_images})
    return pd.DataFrame(rows)


def gather(kind: str, runs: Sequence[Run], measured: Sequence[Landscape]) -> tuple[list[tuple], dict[str, Any]]:
    """The report's pictures (ending of the file's name, caption, figure), and what it keeps besides the runs."""
    shown, first = one_each(measured), measured[0].plane
    drawn = [(f"-{which}", text, getattr(figures, f"landscape_{which}")(shown)) for which, text in PICTURES.items()]
    grid = {"steps": len(first.coordinates), "radius": float(first.coordinates[-1]), "direction_seed": first.seed}
    more = {"classes": len(runs[0].classes), "grid": grid, "commit": provenance.commit()}
    return drawn, {**more, "rows": table(measured).to_dict("records")}


def contents(kept: dict[str, Any], runs: Sequence[Run]) -> dict[str, Any]:
    """What fills the template, and the rows for the CSV file."""
    rows, guess = pd.DataFrame(kept["rows"]), math.log(kept["classes"])
    reference, findings, broken = rows["method"][0], {}, []
    shown = {"run": rows["run"], "test accuracy": rows["test_accuracy"].map("{:.2%}".format)}
    shown["test loss (centre)"] = rows["test_loss"].map("{:.4g}".format)
    for r in RADII:
        rise = f"rise@{r:g}"
        shown[f"rise at {r:g}"] = tables.bounded(rows, [rise, f"{rise}/low", f"{rise}/high"], ".3g", 1)
        findings[f"{r:g}"] = tables.findings(tables.against(rows, rise, reference), reference, "+.3g", 1)
        broken += [f"{r:g}"] if (rows[rise] + rows["test_loss"] > guess).all() else []
    shown["largest eigenvalue"] = rows["eigenvalue"].map("{:.3g}".format)
    recorded = pd.Series([run.metrics["test_loss"] for run in runs])
    return {
        "title": f"Loss landscape: {Path(runs[0].config.dataset).name}",
        "rows": rows,
        "table": pd.DataFrame(shown),
        "findings": findings,
        "guess": guess,
        "broken": broken,
        "apart": (rows["test_loss"] - recorded).abs().max(),
    }
