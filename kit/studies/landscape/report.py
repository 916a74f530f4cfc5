"""What the landscapes of some runs say, on paper: Markdown with the table, CSV, and pictures.

Not imported by `kit.landscape` itself: it draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kit.config import Config
from kit.errors import KitError
from kit.methods import METHODS, PRESETS
from kit.run import provenance, store
from kit.search.engine import pick_device
from kit.studies import summaries
from kit.studies.landscape.grid import Lines, Plane
from kit.studies.landscape.runs import RADII, Landscape, by_method, findings, method_findings, one_each, table


def write(
    landscapes: Sequence[Landscape], folder: str | Path = "reports", name: str | None = None, note: str = ""
) -> Path:
    """Write <folder>/landscape-<dataset>.md, .csv, pictures and .json (what `rewrite` needs); returns the Markdown's
    path.

    note: a sentence about the circumstances (what else the machine did, say) that stands with the hardware.
    """
    if not landscapes:
        raise KitError("no landscapes, so there is nothing to report: landscape.compare(runs) makes them")
    dataset = Path(landscapes[0].run.config.dataset).name
    folder, stem = Path(folder), name or f"landscape-{dataset}"
    folder.mkdir(parents=True, exist_ok=True)
    pictures = _pictures(one_each(landscapes), folder, stem)
    summaries.write(
        folder / f"{stem}.json",
        "landscape",
        [item.run for item in landscapes],
        note,
        pictures,
        classes=len(landscapes[0].run.classes),
        measured=provenance.describe(pick_device("auto")),
        around=[_kept(item) for item in landscapes],
    )
    return rewrite(folder / f"{stem}.json")


def rewrite(path: str | Path) -> Path:
    """Markdown and CSV of such a report once more, from the summary of its runs and what was measured around them;
    returns the Markdown's path.
    """
    path = Path(path)
    kept = summaries.read(path)
    landscapes = [_restored(run, held) for run, held in zip(kept.runs, kept.more["around"])]
    store.atomically(path.with_suffix(".csv"), lambda p: table(landscapes).to_csv(p, index=False))
    store.atomically(path.with_suffix(".md"), lambda p: p.write_text(_text(landscapes, kept)))
    return path.with_suffix(".md")


def _kept(item: Landscape) -> dict[str, Any]:
    grids = {
        name: {"coordinates": of.coordinates.tolist(), "values": of.values.tolist(), "seed": of.seed}
        for name, of in (("plane", item.plane), ("lines", item.lines))
    }
    return {
        "label": item.label,
        "eigenvalue": item.eigenvalue,
        "images": item.images,
        "eigenvalue_images": item.eigenvalue_images,
        **grids,
    }


def _restored(run: summaries.Record, held: dict[str, Any]) -> Landscape:
    plane, lines = (
        {name: np.array(value) if isinstance(value, list) else value for name, value in held[kind].items()}
        for kind in ("plane", "lines")
    )
    return Landscape(
        run,
        held["label"],
        Plane(**plane),
        Lines(**lines),
        held["eigenvalue"],
        held["images"],
        held["eigenvalue_images"],
    )


def markdown_table(landscapes: Sequence[Landscape], radii: Sequence[float] = RADII) -> str:
    """One row per run; the interval of each rise in brackets."""
    head = ["run", "test accuracy", "test loss (centre)", *(f"rise at {r:g}" for r in radii), "largest eigenvalue"]
    rows = [
        [
            row["run"],
            f"{row['test_accuracy']:.2%}",
            f"{row['test_loss']:.4g}",
            *(_with_interval(row, f"rise@{r:g}") for r in radii),
            f"{row['eigenvalue']:.3g}",
        ]
        for row in table(landscapes, radii).to_dict("records")
    ]
    return _markdown(head, rows)


def _method_table(landscapes: Sequence[Landscape], radii: Sequence[float] = RADII) -> str:
    names = [*(f"rise@{r:g}" for r in radii), "eigenvalue"]
    rows = [
        [
            METHODS[row["method"]].title,
            f"{row['n']}",
            f"{row['test_accuracy']:.2%}",
            *(_with_interval(row, name) for name in names),
        ]
        for row in by_method(landscapes, radii).to_dict("records")
    ]
    return _markdown(["method", "runs", "test accuracy", *(name.replace("@", " at ") for name in names)], rows)


def _with_interval(row: dict[str, Any], name: str) -> str:
    low, high = row[f"{name}/low"], row[f"{name}/high"]
    return f"{row[name]:.3g}" + ("" if math.isnan(low) else f" [{low:.3g}, {high:.3g}]")


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])


def _pictures(shown: Sequence[Landscape], folder: Path, stem: str) -> list[tuple[str, str]]:
    from kit.figures import landscape as figures
    from kit.figures.show import save

    made = (
        (
            "contours",
            "Test loss on the plane of two random directions, the same levels in all panels",
            figures.contours(shown),
        ),
        ("surfaces", "The same planes as surfaces, cut off a step above the last level", figures.surfaces(shown)),
        ("lines", "Test loss along random directions: mean and 95% interval over the directions", figures.lines(shown)),
    )
    saved = [(key, caption) for key, caption, figure in made if save(figure, folder / f"{stem}-{key}.png", width=1200)]
    return [(f"{stem}-{key}.png", caption) for key, caption in saved]


def _text(landscapes: Sequence[Landscape], kept: summaries.Summary) -> str:
    first, dataset = landscapes[0], Path(landscapes[0].run.config.dataset).name
    n, steps = first.lines.directions, len(first.plane.coordinates)
    several = by_method(landscapes)["n"].max() > 1
    parts = [
        f"# Loss landscape: {dataset}",
        f"{len(landscapes)} trained models, {first.images:,} test images, BatchNorm in evaluation mode. Directions are Gaussian, every filter "
        f"scaled to the norm of the trained one, zero for biases and BatchNorm, from one seed ({first.plane.seed}) for all models (Li et al. "
        f"2018; DHA Fig. 3). Planes: {steps} × {steps} points; lines: {n} directions.",
        "## Numbers",
        markdown_table(landscapes),
        f"Rise at r: mean over n = {n} random directions d of (L(θ* + r d) + L(θ* − r d)) / 2 − L(θ*) in nats, with Student's 95% interval over "
        f"the directions. {_broken(landscapes, kept.more['classes'])} Eigenvalue: the Hessian's largest, over {first.eigenvalue_images:,} images, by power iteration; it "
        "belongs to the raw weights, whose scale BatchNorm leaves free, so it compares less well between networks than the rise.",
        _exact(landscapes),
    ]
    if several:
        parts += [
            "## By method",
            _method_table(landscapes),
            "Means over runs with Student's 95% interval over the runs. Differences are paired by "
            "seed; their intervals are not corrected for their number.",
            _listed(method_findings(landscapes)),
        ]
    if len(one_each(landscapes)) > 1:
        parts += [
            "## One model of each method",
            _listed(findings(one_each(landscapes))),
            "These intervals are over directions around one trained model each, and not corrected for their number: they say whether these "
            "models differ, not whether the methods do.",
        ]
    parts += ["## Pictures", *(f"![{caption}]({path})\n\n*{caption}*" for path, caption in kept.pictures)]
    parts += ["## How", _origin(landscapes, kept)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _broken(landscapes: Sequence[Landscape], classes: int) -> str:
    guess = math.log(classes)
    radii = [f"{r:g}" for r in RADII if all(item.lines.rise(r)[0] + item.lines.centre > guess for item in landscapes)]
    beyond = f" At radius {' and '.join(radii)} every model here is beyond it." if radii else ""
    return (
        f"Guessing costs ln({classes}) = {guess:.2f} nats: a loss beyond that says that the network is broken.{beyond}"
    )


def _exact(landscapes: Sequence[Landscape]) -> str:
    apart = [item for item in landscapes if not item.exact]
    if not apart:
        return "The centre of every plane is the test loss that the run recorded, bit for bit."
    most = max(abs(item.plane.centre - item.run.metrics["test_loss"]) for item in apart)
    return (
        f"In {len(landscapes) - len(apart)} of {len(landscapes)} runs the centre is the test loss that the run recorded, bit for bit; in the "
        f"others it differs by up to {most:.2g} (a part of the test images, another device, or a run in bfloat16, evaluated in float32 "
        "here)."
    )


def _listed(sentences: list[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _origin(landscapes: Sequence[Landscape], kept: summaries.Summary) -> str:
    here, trained = kept.more["measured"], [item.run.provenance for item in landscapes]
    commits = ", ".join(sorted({str(where.get("commit")) for where in trained}))
    command = " ".join(
        [
            "papermill notebooks/landscape.ipynb out.ipynb",
            *(f"-p {name} {value}" for name, value in _parameters(landscapes).items()),
        ]
    )
    return "\n\n".join(
        filter(
            None,
            [
                f"`{command}`",
                f"Report: commit `{here['commit']}`, {here['device']}, {here['processor']}, {here['cores']} cores, {here['threads']} thread(s), torch "
                f"{here['versions']['torch']}. Runs: commit `{commits}`, {', '.join(sorted({str(where.get('device')) for where in trained}))}, preset "
                f"`{landscapes[0].run.config.preset}`, {landscapes[0].run.config.epochs} epochs; {trained[0].get('split', '')}.",
                kept.note,
            ],
        )
    )


def _parameters(landscapes: Sequence[Landscape]) -> dict[str, Any]:
    """The notebook's parameters that give these landscapes: methods, seeds, grid, and what the configuration changes
    about the preset.
    """
    item, config = landscapes[0], landscapes[0].run.config
    numbers: pd.DataFrame = table(landscapes)
    usual = Config(dataset="digits", method=config.method, preset=config.preset).model_dump()
    chosen = {"dataset", "method", "preset", "seed", "out", "root", "device"}
    changed = {
        name: value for name, value in config.model_dump().items() if name not in chosen and value != usual[name]
    }
    if config.search_epochs == max(1, round(PRESETS[config.preset]["search_share"] * config.epochs)):
        changed.pop("search_epochs", None)
    grid = {
        "steps": len(item.plane.coordinates),
        "radius": float(item.plane.coordinates[-1]),
        "directions": item.lines.directions,
        "direction_seed": item.plane.seed,
    }
    part = {} if item.images == item.run.metrics["test_images"] else {"images": item.images}
    return {
        "dataset": config.dataset,
        "preset": config.preset,
        "methods": ",".join(dict.fromkeys(numbers["method"])),
        "seed": ",".join(map(str, dict.fromkeys(numbers["seed"]))),
        **grid,
        **part,
        **changed,
    }
