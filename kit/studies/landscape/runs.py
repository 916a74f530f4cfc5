"""Landscapes of several runs, on the same directions and test images; results are kept in the runs' directories."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from kit.data import ImageSet, load_dataset
from kit.errors import KitError
from kit.methods import METHODS
from kit.run import store
from kit.run.predict import TrainedModel
from kit.run.run import Run, open_all
from kit.search.engine import pick_device
from kit.search.progress import interactive
from kit.studies.landscape.surface import RADII, LossLines, Plane, check, largest_eigenvalue, line, part_of, plane

Report = Callable[[str, int, int], None]  # (what, done, all)


@dataclass(frozen=True)
class Landscape:
    """What was measured around one run's model. images, eigenvalue_images: how many test images it was measured on."""

    run: Run
    label: str
    plane: Plane
    lines: LossLines
    eigenvalue: float
    images: int
    eigenvalue_images: int


def compare(
    runs: Sequence[Run | str | Path],
    *,
    steps: int = 21,
    radius: float = 1.0,
    directions: int = 10,
    seed: int = 0,
    images: int = 0,
    eigenvalue_images: int = 512,
    device: str = "auto",
    progress: Report | None = None,
) -> list[Landscape]:
    """Plane, lines and largest Hessian eigenvalue of each run's model, on one directions' seed and the same images.

    steps, radius: of plane and lines; directions: lines per run; images: so many test images, drawn evenly from the
    classes (0: all); eigenvalue_images: at most so many of them for the Hessian. Results lie under the run's directory,
    in landscape/, and are read the next time; an interrupted call goes on. progress: called with (what, done, all);
    None: a bar, or lines in a log. Raises KitError before any compute for a path that is no run, a run without a model,
    and runs that were not tested on the same images.
    """
    check(steps=steps, radius=radius, directions=directions, images=images)
    opened = [run if isinstance(run, Run) else Run.load(run) for run in runs]
    # in the memory format that the runs evaluated them in: kernels may round by it
    models = [run.model(pick_device(device)).to(memory_format=torch.channels_last) for run in opened]
    part = part_of(_test_images(opened, models), images).to(pick_device(device))
    curved = part_of(part, min(eigenvalue_images, len(part)))
    grid, report, measured = {"steps": steps, "radius": radius, "seed": seed}, progress or _reporter(), []
    for run, model, label in zip(opened, models, _labels(opened)):

        def kept(kind: str, run: Run = run, label: str = label, **settings: float) -> dict[str, Any]:
            folder = run.path / "landscape"
            path = folder / f"{'-'.join([kind, *(f'{name}{value:g}' for name, value in settings.items())])}.npz"
            writable = os.access(folder if folder.is_dir() else run.path, os.W_OK)  # not so in a run of somebody else
            progress = lambda done, total: report(f"{label}: {kind}", done, total)
            return {"path": path if writable else None, "progress": progress}

        flat = plane(model, part, **grid, **kept("plane", **grid, images=images))
        lines = kept("lines", **grid, images=images, directions=directions)
        along = line(model, part, directions=directions, radii=RADII, **grid, **lines)
        top = _eigenvalue(model, curved, **kept("eigenvalue", images=len(curved), of=images))
        measured.append(Landscape(run, label, flat, along, top, len(part), len(curved)))
    return measured


def _test_images(runs: Sequence[Run], models: Sequence[TrainedModel]) -> ImageSet:
    """The test images of all runs. Raises KitError where they are not one set, or not what a run was tested on."""
    if not runs:
        raise KitError("no runs: give run directories, e.g. landscape.compare(['runs/digits-dha-s0-…'])")
    config = runs[0].config
    test = load_dataset(config.dataset, config.root, config.image_size).test
    here = _described(config.dataset, test.images.shape[1:], len(test))
    for run, model in zip(runs, models):
        there = _described(run.config.dataset, model.network.image, run.metrics["test_images"])
        if there != here:
            raise KitError(
                f"{run.path} was tested on {there}, here are {here}: landscapes are compared on the same test images; "
                "give runs of one data set, whose images have not changed since"
            )
    return test


def _described(dataset: str, shape: Sequence[int], count: int) -> str:
    return f"{count:,} images of {dataset} ({'×'.join(map(str, shape))})"


def _eigenvalue(model: TrainedModel, data: ImageSet, path: Path | None, progress: Callable[[int, int], None]) -> float:
    if path and path.is_file():
        return float(store.read_arrays(path)["eigenvalue"])
    value = largest_eigenvalue(model, data.images, data.labels)
    if path:
        store.write_arrays(path, {"eigenvalue": np.array(value)})
    progress(1, 1)
    return value


def _labels(runs: Sequence[Run]) -> list[str]:
    """Method and seed of each run, with its directory's hash where these are not enough."""
    short = [f"{METHODS[run.config.method].title.split(':')[0]} · seed {run.config.seed}" for run in runs]
    hashes = [run.path.name.rsplit("-", 1)[-1] for run in runs]
    return [name if short.count(name) == 1 else f"{name} ({tag})" for name, tag in zip(short, hashes)]


def _reporter() -> Report:
    """Bars for people, in a log a line at the end of each part."""
    bars: dict[str, tqdm] = {}

    def report(what: str, done: int, total: int) -> None:
        bar = bars[what] = bars.get(what) or tqdm(total=total, desc=what, disable=not interactive())
        bar.update(done - bar.n)
        if bar.disable and done == total:
            print(f"{what} {done}/{total}", flush=True)

    return report


def gather(runs: str, methods: str, seed: int | str, values: dict[str, Any]) -> list[Run]:
    """The runs that a notebook names: directories, with commas; or for "" a finished run of each method (names, with
    commas) and seed (numbers, with commas), with `values` of `kit.Config`'s fields, searched where there is none yet.
    """
    if runs.strip():
        return open_all(runs)
    from kit.lab import sweep
    from kit.studies import report

    if not methods.strip(" ,"):
        raise KitError('runs="" and methods="": name run directories or methods, with commas, e.g. methods="dha,ista"')
    others = {name: value for name, value in values.items() if name not in ("method", "seed")}
    result = sweep.run(report.grid("ablation", methods, str(seed), others))
    sweep.require_all(result)
    return result.runs


def one_each(landscapes: Sequence[Landscape]) -> list[Landscape]:
    """The first run of each method: what a figure shows of many."""
    return list({item.run.config.method: item for item in reversed(landscapes)}.values())[::-1]
