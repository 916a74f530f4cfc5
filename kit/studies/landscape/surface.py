"""The loss around one model: on a plane, along lines, and its curvature. The model itself is never moved: a copy is."""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from kit.data import ImageSet, stratified_split
from kit.errors import KitError
from kit.run import store
from kit.search.learner import generator

RADII = (0.25, 0.5, 1.0)  # METHOD section 5
MOST = 64  # points that a GPU tries to evaluate together
SAVE_EVERY = 30.0  # seconds between two writes of an unfinished plane


def interval(values: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over axis 0 and Student's t interval of it: mean, low, high. The bounds of a single value are NaN."""
    mean = np.mean(values, axis=0)
    if len(values) < 2:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    half = stats.t.ppf(0.5 + level / 2, len(values) - 1) * np.std(values, axis=0, ddof=1) / math.sqrt(len(values))
    return mean, mean - half, mean + half


@dataclass(frozen=True)
class Plane:
    """f(a, b) = L(θ* + a δ + b η). coordinates: float64 [n], of both axes, 0 in the middle. values: float64 [n, n], row
    a, column b (and further axes where a metric gives arrays). seed: of the directions.
    """

    coordinates: np.ndarray
    values: np.ndarray
    seed: int

    @property
    def centre(self) -> float:
        """The trained model's own value."""
        return self.values[len(self.coordinates) // 2, len(self.coordinates) // 2]


@dataclass(frozen=True)
class LossLines:
    """f_k(t) = L(θ* + t d_k) along independent directions; the first two are the axes of the same seed's plane.
    coordinates: float64 [n], ascending, 0 among them. values: float64 [directions, n] (and further axes, as above).
    """

    coordinates: np.ndarray
    values: np.ndarray
    seed: int

    @property
    def centre(self) -> float:
        """The trained model's own value."""
        return self.values[0, np.flatnonzero(self.coordinates == 0)[0]]

    @property
    def directions(self) -> int:
        return len(self.values)

    def band(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean over the directions at each coordinate and its t interval: mean, low, high, each float64 [n]."""
        return interval(self.values, level)

    def rises(self, radius: float) -> np.ndarray:
        """(f(r) + f(−r)) / 2 − f(0) of each direction: float64 [directions]. KitError for a radius not evaluated."""
        low, high = (self.values[:, self.coordinates == r] for r in (-radius, radius))
        if not low.size or not high.size:
            radii = ", ".join(f"{t:g}" for t in self.coordinates if t > 0)
            raise KitError(f"the lines have no value at radius {radius:g}; they have: {radii}")
        return (high[:, 0] + low[:, 0]) / 2 - self.centre

    def rise(self, radius: float, level: float = 0.95) -> tuple[float, float, float]:
        """Mean rise over the directions and its t interval: mean, low, high."""
        return tuple(float(value) for value in interval(self.rises(radius), level))


def direction(model: nn.Module, seed: int, which: str = "δ") -> dict[str, Tensor]:
    """A Gaussian direction by parameter name, each filter (row of a weight) scaled to the norm of the model's own; zero
    for biases and BatchNorm. A parameter's numbers follow from its name: models that share a layer get the same.
    """
    drawn = {}
    for name, parameter in model.named_parameters():
        weight = parameter.detach()
        drawn[name] = torch.zeros_like(weight)
        if weight.ndim < 2:
            continue
        noise = torch.randn(weight.shape, generator=generator(seed, f"{which}/{name}"), dtype=weight.dtype).to(weight)
        rows = noise.flatten(1).norm(dim=1).clamp(min=torch.finfo(weight.dtype).tiny)
        drawn[name] += noise * (weight.flatten(1).norm(dim=1) / rows).view(-1, *[1] * (weight.ndim - 1))
    return drawn


def plane(model: nn.Module, data: ImageSet, *, steps: int = 21, radius: float = 1.0, seed: int = 0, **options) -> Plane:
    """Evaluate the model on a steps × steps grid of a, b ∈ [−radius, radius], in evaluation mode.

    model: images → scores, on the device of its parameters. data: the images whose mean cross-entropy is taken. steps:
    odd, so that the centre is the trained model itself. options, of `line` as well:
    batch_size: images of a forward pass (256). metric: a function of a loss_landscapes model wrapper to a number or an
    array of numbers (the package's metrics among them), in place of the cross-entropy. points_per_pass: points that
    torch.func.vmap evaluates together, equal up to rounding; None: 1 on the CPU, what the memory takes on a GPU. path:
    a .npz that keeps what is done, so that the same call goes on from it. progress: called with points done and all.

    Raises KitError for an even number of steps and for a path that belongs to another model, data set or grid.
    """
    coordinates = _coordinates(steps, radius)
    points = np.stack(np.meshgrid(coordinates, coordinates, indexing="ij"), axis=-1).reshape(1, -1, 2)
    values = _evaluate(model, data, points, [("δ", "η")], seed, **options)
    return Plane(coordinates, values.reshape(steps, steps, *values.shape[2:]), seed)


def line(
    model: nn.Module,
    data: ImageSet,
    *,
    directions: int = 10,
    steps: int = 21,
    radius: float = 1.0,
    radii: Sequence[float] = (),
    seed: int = 0,
    **options,
) -> LossLines:
    """Evaluate the model along independent filter-normalised lines through it, at `steps` points of [−radius, radius].

    radii: distances that are evaluated as well, on both sides, for `LossLines.rise`. The rest as for `plane`.
    """
    check(directions=directions, radii=tuple(radii) or RADII)
    coordinates = np.unique([*_coordinates(steps, radius), *radii, *(-r for r in radii)])
    points = np.broadcast_to(coordinates[:, None], (directions, len(coordinates), 1))
    names = [("δ",), ("η",), *((f"direction {k + 1}",) for k in range(2, directions))][:directions]
    return LossLines(coordinates, _evaluate(model, data, points, names, seed, **options), seed)


def check(
    *, steps: int = 21, radius: float = 1.0, directions: int = 10, images: int = 0, radii: Sequence[float] = RADII
) -> None:
    """Raises KitError for what `compare` would refuse about the grid: for a notebook that searches first."""
    if steps < 3 or steps % 2 == 0:
        raise KitError(
            f"steps={steps}: give an odd number from 3, for the trained model to be the centre, e.g. steps=21"
        )
    if not (radius > 0 and math.isfinite(radius)):
        raise KitError(f"radius={radius}: give a positive number; 1 moves every filter by its own norm")
    if directions < 1:
        raise KitError(f"directions={directions}: give 1 or more; an interval needs 2")
    if not len(radii) or not all(r > 0 and math.isfinite(r) for r in radii):
        raise KitError(f"radii={tuple(radii)}: give positive numbers, e.g. radii=(0.25, 0.5, 1.0)")
    if images < 0:
        raise KitError(f"images={images}: give how many of the test images, 0 for all")


def _coordinates(steps: int, radius: float) -> np.ndarray:
    check(steps=steps, radius=radius)
    return radius * np.arange(-(steps // 2), steps // 2 + 1) / (steps // 2)  # from integers: the middle is 0 exactly


class _Evaluation:
    """The mean loss, or what a metric gives, at θ* + c₁ d₁ + c₂ d₂ + …"""

    def __init__(self, model: nn.Module, data: ImageSet, batch_size: int, metric: Callable[[Any], Any] | None):
        self.twin = copy.deepcopy(model).eval().requires_grad_(False)
        self.start = {name: p.detach() for name, p in model.named_parameters()}
        self.data, self.batch_size, self.metric = data, batch_size, metric

    def __call__(self, directions: Sequence[dict[str, Tensor]], points: np.ndarray) -> np.ndarray:
        """float64 [n, …] for points float64 [n, directions], all of them in one pass."""
        together = len(points) > 1
        with torch.no_grad():
            weights = {name: p for name, p in self.start.items() if p.ndim >= 2}
            for d, c in zip(directions, points.T):
                for name, weight in weights.items():
                    if together:
                        by = torch.from_numpy(c).to(weight).view(-1, *[1] * d[name].ndim)
                        weights[name] = torch.addcmul(weight, by, d[name])
                    else:
                        weights[name] = torch.add(weight, d[name], alpha=float(c[0]))
            if self.metric is None:
                add_up = vmap(self._sum, in_dims=(0, None, None)) if together else self._sum
                # batch by batch as a run sums its test loss: the centre is that number to the last bit
                total = sum(add_up(weights, x, y) for x, y in self.data.chunks(self.batch_size))
                return total.double().cpu().numpy().reshape(-1) / len(self.data)
            for name, parameter in self.twin.named_parameters():  # all of them: a metric may move them, too
                parameter.copy_(weights.get(name, self.start[name]))
        from loss_landscapes.model_interface.model_wrapper import SimpleModelWrapper

        return np.asarray(self.metric(SimpleModelWrapper(self.twin)), dtype=float)[None]

    def _sum(self, weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(self.twin, weights, (x,)), y, reduction="none").sum()


def _evaluate(
    model: nn.Module,
    data: ImageSet,
    points: np.ndarray,
    names: Sequence[tuple[str, ...]],
    seed: int,
    *,
    batch_size: int = 256,
    metric: Callable[[Any], Any] | None = None,
    points_per_pass: int | None = None,
    path: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Values at points [groups, n, axes], each group along the directions that it names: float64 [groups, n, …]."""
    if points_per_pass is not None and points_per_pass < 1:
        raise KitError(f"points_per_pass={points_per_pass}: give 1 or more, or leave it out")
    size = points_per_pass or (MOST if data.device.type == "cuda" and metric is None else 1)
    if size > 1 and metric is not None:
        raise KitError(f"points_per_pass={size}: a metric sees one model at a time; leave points_per_pass out")
    at = _Evaluation(model, data, batch_size, metric)
    kept = _kept(path, model, data, points.tolist(), names, seed, getattr(metric, "__qualname__", type(metric)))
    if "values" not in kept:
        # the centre alone and first: it is exact, and shows what a metric gives
        centre, kept["done"] = at([], np.zeros((1, 0))), (points == 0).all(axis=-1)
        kept["values"] = np.full((*points.shape[:2], *centre.shape[1:]), np.nan)
        kept["values"][kept["done"]] = centre
    values, done, saved = kept["values"], kept["done"], time.monotonic()
    for group in np.flatnonzero(~done.all(axis=1)):
        axes = [direction(model, seed, which) for which in names[group]]
        while len(todo := np.flatnonzero(~done[group])[:size]):
            try:
                values[group, todo] = at(axes, points[group, todo])
            except RuntimeError as error:
                if len(todo) == 1:
                    raise
                # more than the memory holds, or a model that vmap cannot run
                size = len(todo) // 2 if isinstance(error, torch.OutOfMemoryError) else 1
                continue
            done[group, todo] = True
            if path and (time.monotonic() - saved > SAVE_EVERY or done.all()):
                store.write_arrays(Path(path), kept)
                saved = time.monotonic()
            if progress is not None:
                progress(int(done.sum()), done.size)
    return values


def _kept(path: str | Path | None, model: nn.Module, data: ImageSet, *what: Any) -> dict[str, np.ndarray]:
    """What an earlier call left at the path, and whose it is. Raises KitError where that is not this call's."""
    if path is None:
        return {}
    first, _ = next(iter(data.chunks(256)))  # stands for the rest: a test set of photographs is gigabytes
    digest = hashlib.sha256(repr((what, tuple(data.images.shape))).encode())
    for tensor in (*model.state_dict().values(), data.labels, data.index, first):
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    identity = np.array(digest.hexdigest())
    kept = store.read_arrays(Path(path)) if Path(path).is_file() else {"identity": identity}
    if kept.get("identity") != identity:
        raise KitError(
            f"{path} holds the landscape of another model, data set or grid: give another path, or delete it"
        )
    return kept


def sharpness(
    model: nn.Module,
    data: ImageSet,
    *,
    radii: Sequence[float] = RADII,
    directions: int = 10,
    eigenvalue_images: int = 512,
    batch_size: int = 256,
    **options,
) -> dict[str, float]:
    """How fast the loss rises around the model; options as for `line`.

    "rise@r" for each radius: mean over the directions d of (L(θ* + r d) + L(θ* − r d)) / 2 − L(θ*), in nats;
    "rise@r/low", "rise@r/high": Student's 95% interval of that mean; "directions": how many; "eigenvalue": the largest
    of the loss's Hessian over `eigenvalue_images` of the images, drawn evenly from the classes (0: all).
    """
    check(radii=radii)
    options |= {"steps": 3, "radius": max(radii), "radii": radii, "batch_size": batch_size}
    found = line(model, data, directions=directions, **options)
    part, result = part_of(data, min(eigenvalue_images, len(data))), {}
    for r in radii:
        result |= bounded(f"rise@{r:g}", found.rise(r))
    top = largest_eigenvalue(model, part.images, part.labels, batch_size=batch_size)
    return result | {"directions": directions, "eigenvalue": top}


def bounded(name: str, values: tuple[float, float, float]) -> dict[str, float]:
    """A mean and its interval as three entries."""
    return dict(zip((name, f"{name}/low", f"{name}/high"), map(float, values)))


def part_of(data: ImageSet, n: int) -> ImageSet:
    """About n images with the classes' shares kept, the same ones every time; 0: all of them."""
    if not 0 <= n <= len(data):
        raise KitError(f"images={n:,}: there are {len(data):,}; 0 takes them all")
    return data if n in (0, len(data)) else data.take(stratified_split(data.labels, n / len(data))[1])


def largest_eigenvalue(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    batch_size: int = 256,
    iterations: int = 100,
    tol: float = 1e-4,
    seed: int = 0,
) -> float:
    """The Hessian's eigenvalue of largest magnitude, over all parameters, in evaluation mode.

    By power iteration on Hessian-vector products, until the estimate changes by less than tol, relatively. loss: mean
    over a batch, of (scores, targets).
    """
    twin = copy.deepcopy(model).eval()
    parameters = [p.requires_grad_() for p in twin.parameters()]

    def product(v: Tensor) -> Tensor:
        total = torch.zeros_like(v)
        for i in range(0, len(images), batch_size):
            x, y = images[i : i + batch_size], targets[i : i + batch_size]
            share = loss(twin(x), y) * (len(x) / len(images))
            gradient = torch.autograd.grad(share, parameters, create_graph=True, materialize_grads=True)
            total += _flat(torch.autograd.grad(_flat(gradient) @ v, parameters, materialize_grads=True))
        return total

    streams = (generator(seed, f"eigenvector/{i}") for i in range(len(parameters)))
    v = _flat([torch.randn(p.shape, generator=g, dtype=p.dtype).to(p.device) for p, g in zip(parameters, streams)])
    estimate = 0.0
    for _ in range(iterations):
        v = v / v.norm()
        before, following = estimate, product(v)
        estimate, v = float(following @ v), following
        if abs(estimate - before) <= tol * abs(estimate):
            break
    return estimate


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
