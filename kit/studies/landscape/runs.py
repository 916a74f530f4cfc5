"""Landscapes of several runs: the same directions' seed, the same test images, and tables that say how many of what
they rest on.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from kit.data import ImageSet, load_dataset
from kit.errors import KitError
from kit.run import store
from kit.run.predict import TrainedModel
from kit.run.run import Run, open_all
from kit.search import progress as progress_module
from kit.search.engine import pick_device
from kit.studies.landscape.curvature import largest_eigenvalue, some
from kit.studies.landscape.grid import Lines, Plane, check_lines, grid, interval, line, plane

RADII = (0.25, 0.5, 1.0)  # METHOD section 5
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Landscape:
    """What was measured around one run's model. images: test images that plane and lines rest on; eigenvalue_images:
    that the eigenvalue does.
    """

    run: Run
    label: str
    plane: Plane
    lines: Lines
    eigenvalue: float
    images: int
    eigenvalue_images: int

    @property
    def exact(self) -> bool:
        """Whether the centre is the test loss that the run recorded, bit for bit. Not so on a part of the test images,
        on another device than
        the run's, and for a run in bfloat16, whose model is evaluated in float32 here."""
        return self.plane.centre == self.run.metrics["test_loss"]


def compare(
    runs: Sequence[Run | str | Path],
    *,
    steps: int = 21,
    radius: float = 1.0,
    directions: int = 10,
    seed: int = 0,
    images: int = 0,
    radii: Sequence[float] = RADII,
    eigenvalue_images: int = 512,
    device: str = "auto",
    points_per_pass: int | None = None,
    progress: Report | None = None,
) -> list[Landscape]:
    """Plane, lines and sharpness of each run's model, on one directions' seed and the same test images.

    steps, radius: of plane and lines; directions: lines per run; radii: where the rise is measured; images: so many
    test images, drawn
    evenly from the classes (0: all); eigenvalue_images: at most so many of them for the Hessian. What is done lies
    under the run's
    directory, in landscape/, and is read the next time; an interrupted call goes on. progress: called with (what, done,
    all); None: a bar or lines.
    Raises KitError before any compute for a path that is no run, a run without a model, and runs whose test images
    differ.
    """
    check(steps=steps, radius=radius, directions=directions, images=images, radii=radii)
    loaded = [run if isinstance(run, Run) else Run.load(run) for run in runs]
    check_comparable(loaded)
    where = pick_device(device)
    config = loaded[0].config
    test = load_dataset(config.dataset, config.root, config.image_size).test.to(where)
    _check_test(loaded, test)
    part = some(test, images)
    curved = some(part, min(eigenvalue_images, len(part)))
    report = progress or _Reporter()
    measured = []
    for run, label in zip(loaded, labels(loaded)):
        # as it was trained: kernels may round by the memory format
        model = run.model(where).to(memory_format=torch.channels_last)
        folder, kept = _folder(run), {"steps": steps, "radius": radius, "seed": seed}
        flat = plane(
            model,
            part,
            **kept,
            points_per_pass=points_per_pass,
            path=_file(folder, "plane", **kept, images=images),
            progress=_part(report, f"{label}: plane"),
        )
        more = {"directions": directions, "radii": tuple(radii)}
        along = line(
            model,
            part,
            **kept,
            **more,
            points_per_pass=points_per_pass,
            path=_file(folder, "lines", **kept, images=images, **more),
            progress=_part(report, f"{label}: lines"),
        )
        top = _eigenvalue(
            model,
            curved,
            _file(folder, "eigenvalue", images=len(curved), of=images),
            _part(report, f"{label}: eigenvalue"),
        )
        measured.append(Landscape(run, label, flat, along, top, len(part), len(curved)))
    return measured


def gather(runs: str, methods: str, seed: int | str, values: dict[str, Any]) -> list[Run]:
    """The runs that a notebook names: directories with commas; or, for "", a finished run per method (names with
    commas) and seed (a number,
    or numbers with commas) with `values`, fields of `kit.Config`, searched where there is none yet."""
    if runs.strip():
        return open_all(runs)
    from kit.lab import sweep

    named = [name.strip() for name in methods.split(",") if name.strip()]
    if not named:
        raise KitError('runs="" and methods="": name run directories or methods, with commas, e.g. methods="dha,ista"')
    try:
        seeds = [int(number) for number in str(seed).split(",")]
    except ValueError:
        raise KitError(
            f"seed={seed!r} is neither a number nor numbers with commas: -p seed 0, or -p seed 0,1,2"
        ) from None
    axes = {"method": named, "seed": seeds}
    result = sweep.run(sweep.grid(**axes, **{name: value for name, value in values.items() if name not in axes}))
    sweep.require_all(result)
    return result.runs


# ---- what can be compared ------------------------------------------------------------------------


def check(
    *, steps: int = 21, radius: float = 1.0, directions: int = 10, images: int = 0, radii: Sequence[float] = RADII
) -> None:
    """Raises KitError for what `compare` would refuse about the grid: for a notebook that searches first."""
    grid(steps, radius)
    check_lines(directions, radii)
    if images < 0:
        raise KitError(f"images={images}: give how many of the test images, 0 for all")


def check_comparable(runs: Sequence[Run]) -> None:
    """Raises KitError for no runs, a run without a model, and runs on different images, with the groups that are
    comparable.
    """
    if not runs:
        raise KitError("no runs: give run directories, e.g. landscape.compare(['runs/digits-dha-s0-…'])")
    groups: dict[str, list[str]] = {}
    for run in runs:
        classes = len(run.classes)  # says so where there is no model yet
        shape = "×".join(map(str, store.read_json(run.path / "model" / "model.json")["network"]["image"]))
        groups.setdefault(f"{run.config.dataset} ({shape}, {classes} classes)", []).append(run.path.name)
    if len(groups) > 1:
        listed = "; ".join(f"{what}: {', '.join(names)}" for what, names in groups.items())
        raise KitError(
            f"landscapes are compared on the same test images; these runs have {len(groups)} kinds. Comparable among themselves: "
            f"{listed}. Give the runs of one group"
        )


def _check_test(runs: Sequence[Run], test: ImageSet) -> None:
    for run in runs:
        if run.metrics["test_images"] != len(test):
            raise KitError(
                f"{run.path} was tested on {run.metrics['test_images']:,} images, {run.config.dataset} has {len(test):,} here: its data "
                "have changed since, so that its landscape would not be that of the run"
            )


def labels(runs: Sequence[Run]) -> list[str]:
    """Short names, one per run: method and seed, and the directory's hash where these are not enough."""
    short = [f"{run.config.composition.title.split(':')[0]} · seed {run.config.seed}" for run in runs]
    return [
        name if short.count(name) == 1 else f"{name} ({run.path.name.rsplit('-', 1)[-1]})"
        for name, run in zip(short, runs)
    ]


# ---- what is kept --------------------------------------------------------------------------------


def _folder(run: Run) -> Path | None:
    """Where the run's landscapes lie; nowhere for a run that others own."""
    folder = run.path / "landscape"
    if os.access(folder if folder.is_dir() else run.path, os.W_OK):
        return folder
    print(f"{run.path} cannot be written to: its landscape is computed and not kept", flush=True)
    return None


def _file(folder: Path | None, kind: str, **settings: Any) -> Path | None:
    named = [f"{name}{'+'.join(f'{v:g}' for v in np.atleast_1d(value))}" for name, value in settings.items()]
    return None if folder is None else folder / f"{'-'.join([kind, *named])}.npz"


def _eigenvalue(model: TrainedModel, data: ImageSet, path: Path | None, progress: Callable[[int, int], None]) -> float:
    if path is not None and path.is_file():
        return float(store.read_arrays(path)["eigenvalue"])
    value = largest_eigenvalue(model, data.images, data.labels, progress=progress)
    if path is not None:
        store.write_arrays(path, {"eigenvalue": np.array(value)})
    return value


# ---- numbers -------------------------------------------------------------------------------------


def table(landscapes: Sequence[Landscape], radii: Sequence[float] = RADII) -> pd.DataFrame:
    """One row per run: method, seed, test_accuracy, test_loss (the centre), for each radius the mean rise and its 95%
    interval over the
    directions, the largest eigenvalue, and how many directions and images they rest on."""
    rows = []
    for item in landscapes:
        row = {
            "run": item.label,
            "method": item.run.config.method,
            "seed": item.run.config.seed,
            "test_accuracy": item.run.metrics["test_accuracy"],
            "test_loss": item.plane.centre,
        }
        for r in radii:
            row[f"rise@{r:g}"], row[f"rise@{r:g}/low"], row[f"rise@{r:g}/high"] = item.lines.rise(r)
        rows.append(
            row
            | {
                "eigenvalue": item.eigenvalue,
                "directions": item.lines.directions,
                "images": item.images,
                "eigenvalue_images": item.eigenvalue_images,
            }
        )
    return pd.DataFrame(rows)


def by_method(landscapes: Sequence[Landscape], radii: Sequence[float] = RADII) -> pd.DataFrame:
    """One row per method: n runs, and for each radius the mean over the runs of their mean rise, with its 95% interval
    over the runs (NaN
    for one run: it says nothing about the method)."""
    rows = []
    for method, group in table(landscapes, radii).groupby("method", sort=False):
        row = {"method": method, "n": len(group), "test_accuracy": group["test_accuracy"].mean()}
        for name in (*(f"rise@{r:g}" for r in radii), "eigenvalue"):
            row[name], row[f"{name}/low"], row[f"{name}/high"] = (float(v) for v in interval(group[name].to_numpy()))
        rows.append(row)
    return pd.DataFrame(rows)


def one_each(landscapes: Sequence[Landscape]) -> list[Landscape]:
    """The first run of each method: what a figure shows of many."""
    first: dict[str, Landscape] = {}
    for item in landscapes:
        first.setdefault(item.run.config.method, item)
    return list(first.values())


def findings(landscapes: Sequence[Landscape], radii: Sequence[float] = RADII) -> list[str]:
    """Which of these trained models is flatter than the first, in words: differences of the rise, paired by
    direction.
    """
    first = landscapes[0]
    return [
        _finding(r, (first.label, other.label), other.lines.rises(r) - first.lines.rises(r), "directions")
        for other in landscapes[1:]
        for r in radii
    ]


def method_findings(landscapes: Sequence[Landscape], radii: Sequence[float] = RADII) -> list[str]:
    """Which method gives flatter models than the first one's, in words: differences of the runs' mean rises, paired by
    seed. Empty where no
    two seeds are common to both."""
    numbers, sentences = table(landscapes, radii), []
    first, *others = dict.fromkeys(numbers["method"])
    for other in others:
        one, two = (numbers[numbers["method"] == name].set_index("seed") for name in (first, other))
        common = one.index.intersection(two.index)
        if len(common) > 1:
            sentences += [
                _finding(r, (first, other), (two[f"rise@{r:g}"] - one[f"rise@{r:g}"])[common].to_numpy(), "seeds")
                for r in radii
            ]
    return sentences


def _finding(radius: float, names: tuple[str, str], differences: np.ndarray, of: str) -> str:
    mean, low, high = (float(v) for v in interval(differences))
    if math.isnan(low):
        verdict = f"one of the {of} says nothing about the difference"
    else:
        verdict = "not distinguishable" if low <= 0 <= high else f"{names[0] if mean > 0 else names[1]} is flatter"
    bounds = "" if math.isnan(low) else f" [{low:+.3g}, {high:+.3g}]"
    return f"radius {radius:g}: rise of {names[1]} − rise of {names[0]} = {mean:+.3g}{bounds}, n = {len(differences)} {of}: {verdict}."


# ---- progress ------------------------------------------------------------------------------------


def _part(report: Report, what: str) -> Callable[[int, int], None]:
    return lambda done, total: report(what, done, total)


class _Reporter:
    """A bar for people; for logs a line at the end of each part, and at most one per `every` seconds on the way."""

    def __init__(self, every: float = 10.0):
        self.every, self.last, self.what, self.bar = every, time.monotonic(), "", None

    def __call__(self, what: str, done: int, total: int) -> None:
        if progress_module.interactive():
            self._bar(what, done, total)
        elif done == total or time.monotonic() - self.last > self.every:
            self.last = time.monotonic()
            print(f"{what} {done}/{total}", flush=True)

    def _bar(self, what: str, done: int, total: int) -> None:
        from tqdm.auto import tqdm

        if what != self.what:
            self.what, self.bar = what, tqdm(total=total, desc=what)
        if total != self.bar.total:  # it ended early; a bar in a notebook takes a new end only so
            began = self.bar.start_t
            self.bar.reset(total)
            self.bar.start_t = began
        self.bar.update(done - self.bar.n)
        if done == total:
            self.bar.close()
