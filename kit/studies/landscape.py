"""Loss landscape around trained models (Li et al. 2018; DHA Fig. 3), and numbers for its flatness. `plane`, `line` and
`sharpness` take any model, which they never move, and images; `compare` takes runs."""

import contextlib
import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from kit.data import ImageSet, part_of
from kit.errors import KitError, shown, whole
from kit.methods import METHODS
from kit.run import provenance, store
from kit.run.run import Run
from kit.search.engine import pick_device
from kit.search.learner import generator
from kit.search.progress import interactive
from kit.studies import tables

RADII = (0.25, 0.5, 1.0)  # at which lines give the rise; METHOD section 5
RISES = {r: [f"rise@{r:g}{end}" for end in ("", "/low", "/high")] for r in RADII}
CHEAP = 2.5e8  # weights × values of the images: a point takes some 10 ms of a CPU core or less
TEMPLATE = "landscape.md.j2"
PICTURES = {
    "contours": "Test loss on the plane of two random directions, the same levels in all panels",
    "surfaces": "The same planes as surfaces, cut off a step above the last level",
    "lines": "Test loss along random directions, thin; bold: the mean over the directions",
}


@dataclass(frozen=True)
class Plane:
    """f(a, b) = L(θ* + a δ + b η). coordinates: float64 [n], of both axes, 0 in the middle. values: float64 [n, n], row
    a, column b (and further axes where a metric gives arrays). seed: of the directions."""

    coordinates: np.ndarray
    values: np.ndarray
    seed: int

    @property
    def centre(self) -> float:
        return self.values[len(self.values) // 2, len(self.coordinates) // 2]


class LossLines(Plane):
    """f_k(t) = L(θ* + t d_k) along independent directions; the first two are the axes of the same seed's plane.
    coordinates: float64 [n], ascending, 0 and ± RADII among them. values: float64 [directions, n]."""

    def rises(self) -> dict[str, float]:
        """By RISES, of each radius: the directions' mean of (f(r) + f(−r)) / 2 − f(0), and its 95% interval."""
        at, found = dict(zip(self.coordinates, self.values.T)), {}
        for r, names in RISES.items():
            found |= zip(names, map(float, tables.interval((at[r] + at[-r]) / 2 - self.centre)))
        return found


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


@dataclass(frozen=True)
class Trajectory:
    """Where the weights went, seen from where they ended, on the plane of the two directions of most movement (Li et
    al. 2018). epochs: int64 [n]; path: float64 [n, 2], in the norm of all weights; losses: float64 [n], on the plane;
    share: float64 [2], of the path's squared length that each direction has. x, y: float64 [k], the plane's grid;
    values: float64 [k, k], its losses, row x, column y."""

    run: Run
    epochs: np.ndarray
    path: np.ndarray
    losses: np.ndarray
    share: np.ndarray
    x: np.ndarray
    y: np.ndarray
    values: np.ndarray


def trajectory(run: Run, *, steps: int = 0, images: int = 0, device="auto", margin: float = 0.3) -> Trajectory:
    """The path of a finished run that kept weights (`trajectory=` of its configuration). steps and images: as of
    `compare`; margin: of the grid beside the path, as a share of its extent. The model's BatchNorm statistics hold
    everywhere. Raises KitError for a run that kept fewer than three epochs' weights."""
    axis(steps=steps, images=images)
    files = sorted((run.path / "trajectory").glob("epoch-*.safetensors"))
    if len(files) < 3:
        raise KitError(f"{run.path} kept the weights of {len(files)} epochs: search with trajectory=10, resume=False")
    model = run.model(pick_device(device))
    ends = {name: weight.detach() for name, weight in model.network.named_parameters()}
    kept = [store.read_tensors(file, share=store.UNPACKED)[0] for file in files]
    rows = [torch.cat([(held[name].to(end) - end).flatten() for name, end in ends.items()]) for held in kept]
    moved = torch.stack(rows).double().cpu()
    _, sizes, ways = torch.linalg.svd(moved, full_matrices=False)
    path, numbers = (moved @ ways[:2].T).numpy(), [end.numel() for end in ends.values()]
    parts = (zip(ends.items(), way.split(numbers)) for way in ways[:2])
    named = [{f"network.{name}": part.view_as(end).to(end) for (name, end), part in way} for way in parts]
    low, high = path.min(axis=0), path.max(axis=0)
    room, data = margin * (high - low).max(), part_of(run.config.sets().test, images).to(pick_device(device))
    steps = side(steps, model, data)
    x, y = (np.linspace(a - room, b + room, steps) for a, b in zip(low, high))
    grid = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)
    losses = _evaluate(model, data, np.concatenate([path, grid]), named)
    epochs = np.array([int(file.stem.removeprefix("epoch-")) for file in files])
    share = (sizes.square() / sizes.square().sum())[:2].numpy()
    return Trajectory(run, epochs, path, losses[: len(path)], share, x, y, losses[len(path) :].reshape(steps, steps))


def direction(model: nn.Module, seed: int, which: str = "δ") -> dict[str, Tensor]:
    """A Gaussian direction by parameter name, each filter (row of a weight) scaled to the norm of the model's own; zero
    for biases and BatchNorm. A parameter's numbers follow from its name: models that share a layer get the same."""
    drawn = {}
    for name, parameter in model.named_parameters():
        weight = parameter.detach()
        if weight.ndim < 2:
            drawn[name] = torch.zeros_like(weight)
            continue
        noise = torch.randn(weight.shape, generator=generator(seed, f"{which}/{name}"), dtype=weight.dtype).to(weight)
        rows = noise.flatten(1).norm(dim=1).clamp(min=torch.finfo(weight.dtype).tiny)
        drawn[name] = noise * (weight.flatten(1).norm(dim=1) / rows).view(-1, *[1] * (weight.ndim - 1))
    return drawn


def side(steps: int, model: nn.Module, data: ImageSet) -> int:
    """steps, or where that is 0 as many as the work of a point allows: 51 up to `CHEAP`, else 21. By no clock, so that
    the same model and images have the same grid everywhere."""
    work = sum(weight.numel() for weight in model.parameters()) * math.prod(data.images.shape)
    return steps or (51 if work <= CHEAP else 21)


def plane(model: nn.Module, data: ImageSet, *, steps: int = 0, radius: float = 1, seed: int = 0, **options) -> Plane:
    """Evaluate the model on a steps × steps grid of a, b ∈ [−radius, radius], in evaluation mode.

    model: images → scores, on the device of its parameters. data: the images whose mean cross-entropy is taken. steps:
    odd, so that the centre is the trained model itself, or 0 (`side`). Options, of `line` as well: batch_size, images
    of a forward pass (256); metric, a function of a loss_landscapes model wrapper to a number or an array of numbers
    (the package's metrics among them), in place of the cross-entropy. Raises KitError for what is no grid."""
    at = axis(steps=side(steps, model, data), radius=radius)
    points = np.stack(np.meshgrid(at, at, indexing="ij"), axis=-1).reshape(-1, 2)
    values = _evaluate(model, data, points, [direction(model, seed, name) for name in ("δ", "η")], **options)
    return Plane(at, values.reshape(len(at), len(at), *values.shape[1:]), seed)


def line(model: nn.Module, data: ImageSet, directions=10, *, steps=21, radius=1.0, seed=0, **options) -> LossLines:
    """Evaluate the model along independent lines through it, at `steps` points and ± RADII; the rest as `plane`."""
    at = np.unique([*axis(steps=steps, radius=radius, directions=directions), *RADII, *(-r for r in RADII)])
    names = ["δ", "η", *(f"direction {k + 1}" for k in range(2, directions))][:directions]
    ways = (direction(model, seed, name) for name in names)
    return LossLines(at, np.stack([_evaluate(model, data, at[:, None], [way], **options) for way in ways]), seed)


def axis(*, steps: int = 21, radius: float = 1, directions: int = 10, images: int = 0) -> np.ndarray:
    """The coordinates of a grid, float64 [steps]. Raises KitError for what `compare` would refuse after a search."""
    counts = [whole("directions", directions, 1), whole("images", images, 0), whole("steps", steps or 21, 3, 10_001)]
    if counts[-1] % 2 == 0 or not (isinstance(radius, (int, float)) and 0 < radius <= 1e6):
        raise KitError(f"steps={steps}, radius={shown(radius)}: give an odd number of steps, and a radius above 0")
    half = counts[-1] // 2
    return radius * np.arange(-half, half + 1) / half  # from integers: the middle is 0 exactly


def _evaluate(model: nn.Module, data: ImageSet, points: np.ndarray, ways: list[dict], batch_size=256, metric=None):
    """Values at points [n, ways] along directions: float64 [n, …]."""
    from loss_landscapes.model_interface.model_wrapper import SimpleModelWrapper

    def mean_loss(wrapper: SimpleModelWrapper) -> float:
        # batch by batch as a run sums its test loss: the centre is that number to the last bit
        scored = ((wrapper.modules[0](x), y) for x, y in data.chunks(batch_size))
        return float(sum(F.cross_entropy(z, y, reduction="none").sum() for z, y in scored)) / len(data)

    whole("batch_size", batch_size, 1)
    twin, values = copy.deepcopy(model).eval().requires_grad_(False), []
    for point in tqdm(points, leave=False, disable=not interactive()):
        with torch.no_grad():
            for name, weight in model.named_parameters():
                moved = twin.get_parameter(name).copy_(weight)  # all of them: a metric may move them, too
                for way, c in zip(ways, point):
                    moved.add_(way[name], alpha=float(c))
            values.append(np.asarray((metric or mean_loss)(SimpleModelWrapper(twin)), dtype=float))
    return np.stack(values)


def sharpness(model: nn.Module, data: ImageSet, *, directions=10, eigenvalue_images=512, **options) -> dict[str, float]:
    """How fast the loss rises around the model: `LossLines.rises`, "directions", how many, and "eigenvalue", its
    Hessian's largest over `eigenvalue_images` of the images, by classes (0: all). Options as for `plane`."""
    found = line(model, data, directions=directions, steps=3, **options).rises() | {"directions": directions}
    return found | {"eigenvalue": largest_eigenvalue(model, part_of(data, eigenvalue_images))}


def largest_eigenvalue(model: nn.Module, data: ImageSet, batch_size: int = 256) -> float:
    """The eigenvalue of largest magnitude of the mean cross-entropy's Hessian, to four digits, by Lanczos' method."""
    twin = copy.deepcopy(model).eval()
    parameters = [p.requires_grad_() for p in twin.parameters()]

    def product(vector: np.ndarray) -> np.ndarray:
        v = torch.from_numpy(vector).to(parameters[0])
        total = torch.zeros_like(v)
        for x, y in data.chunks(batch_size):
            share = F.cross_entropy(twin(x), y, reduction="sum") / len(data)
            gradient = torch.autograd.grad(share, parameters, create_graph=True, materialize_grads=True)
            slope = nn.utils.parameters_to_vector(gradient) @ v
            second = torch.autograd.grad(slope, parameters, materialize_grads=True)
            total += torch.cat([tensor.flatten() for tensor in second])
        return total.double().cpu().numpy()

    start = np.random.default_rng(0).standard_normal(sum(p.numel() for p in parameters))
    hessian = scipy.sparse.linalg.LinearOperator((start.size, start.size), product)
    return float(scipy.sparse.linalg.eigsh(hessian, k=1, v0=start, tol=1e-4, return_eigenvectors=False)[0])


def compare(runs: Sequence[Run | str], *, directions=10, images=0, seed=0, device="auto", **grid) -> list[Landscape]:
    """Plane, lines and largest Hessian eigenvalue of each run's model, on one directions' seed and the same images.
    Kept in the run's directory. images: at most so many test images, drawn evenly from the classes (0: all), 512 of
    them for the Hessian. grid: steps and radius, as for `plane`, one for all. Raises KitError before any compute."""
    axis(directions=directions, images=images, **grid)
    opened = [run if isinstance(run, Run) else Run.load(run) for run in runs]
    if not opened:
        raise KitError("no runs: give run directories, e.g. landscape.compare(['runs/digits-dha-s0-…'])")
    # in the memory format that the runs evaluated them in: kernels may round by it
    models = [run.model(pick_device(device)).to(memory_format=torch.channels_last) for run in opened]
    test, dataset = opened[0].config.sets().test, opened[0].config.dataset
    here = f"{len(test):,} images of {dataset} ({list(test.images.shape[1:])})"
    for run in opened:
        image = run.found()["network"]["image"]
        if (there := f"{run.metrics['test_images']:,} images of {run.config.dataset} ({image})") != here:
            raise KitError(f"{run.path} was tested on {there}, here are {here}: give runs tested on the same images")
    part = part_of(test, images).to(pick_device(device))
    curved, measured = part_of(part, 512), []
    grid["steps"] = min(side(grid.get("steps", 0), model, part) for model in models)
    at = axis(**grid)
    name = f"{len(at)}-{at[-1]:g}-{seed}-{directions}-{len(part)}.npz"
    for run, model in zip(opened, models):
        path = run.path / "landscape" / name
        if not (kept := store.read_arrays(path, {})):
            lines, flat = line(model, part, directions, seed=seed, **grid), plane(model, part, seed=seed, **grid)
            kept = {"lines": lines.values, "at": lines.coordinates, "plane": flat.values}
            kept["eigenvalue"] = np.array(largest_eigenvalue(model, curved))
            with contextlib.suppress(KitError):  # in somebody else's run: measured anew each time
                store.write_arrays(path, kept)
        flat, lines = Plane(at, kept["plane"], seed), LossLines(kept["at"], kept["lines"], seed)
        label = f"{METHODS[run.config.method].title.split(':')[0]} · seed {run.config.seed}"
        measured.append(Landscape(run, label, flat, lines, float(kept["eigenvalue"]), len(part), len(curved)))
    return measured


def one_each(landscapes: Sequence[Landscape]) -> list[Landscape]:
    """The first run of each method: what a figure shows of many."""
    return list({item.run.config.method: item for item in reversed(landscapes)}.values())[::-1]


def gather(kind: str, runs: Sequence[Run], measured: Sequence[Landscape]) -> tuple[list[tuple], dict[str, Any]]:
    from kit import figures  # not with kit, which loads this module: plotly takes long

    shown, first, rows = one_each(measured), measured[0].plane, []
    drawn = [(f"-{which}", text, getattr(figures, f"landscape_{which}")(shown)) for which, text in PICTURES.items()]
    for item in measured:
        config, accuracy = item.run.config, item.run.metrics["test_accuracy"]
        row = {"run": item.label, "method": config.method, "seed": config.seed, "test_accuracy": accuracy}
        row |= {"test_loss": float(item.plane.centre), **item.lines.rises(), "eigenvalue": item.eigenvalue}
        row |= {"directions": len(item.lines.values), "images": item.images}
        rows.append(row | {"eigenvalue_images": item.eigenvalue_images})
    grid = {"steps": len(first.coordinates), "radius": float(first.coordinates[-1]), "direction_seed": first.seed}
    return drawn, {"classes": len(runs[0].classes), "grid": grid, "commit": provenance.commit(), "rows": rows}


def contents(kept: dict[str, Any], runs: Sequence[Run]) -> dict[str, Any]:
    rows, guess = pd.DataFrame(kept["rows"]), math.log(kept["classes"])
    reference, findings, broken = rows["method"][0], {}, []
    shown = {"run": rows["run"], "test accuracy": rows["test_accuracy"].map("{:.2%}".format)}
    shown |= tables.to_chance(rows.join(tables.beside_chance(rows), on="method"))  # of its method
    shown["test loss (centre)"] = rows["test_loss"].map("{:.4g}".format)
    for r, names in RISES.items():
        shown[f"rise at {r:g}"] = tables.bounded(rows, names, ".3g", 1)
        findings[f"{r:g}"] = tables.findings(tables.against(rows, names[0], reference), reference, "+.3g", 1)
        broken += [f"{r:g}"] if (rows[names[0]] + rows["test_loss"] > guess).all() else []
    shown["largest eigenvalue"] = rows["eigenvalue"].map("{:.3g}".format)
    apart = (rows["test_loss"] - [run.metrics["test_loss"] for run in runs]).abs().max()
    title = f"Loss landscape: {Path(runs[0].config.dataset).name}"
    said = {"findings": findings, "guess": guess, "broken": broken, "apart": apart}
    return {"title": title, "rows": rows, "table": pd.DataFrame(shown), **said}
