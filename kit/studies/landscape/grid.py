"""Losses on a plane and along lines through a trained model; what is done is kept, and a later call goes on from it."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from kit.data import ImageSet
from kit.errors import KitError
from kit.run import store
from kit.studies.landscape.directions import axis_name
from kit.studies.landscape.walker import Metric, Walker

SAVE_EVERY = 30.0  # seconds between two writes of an unfinished plane
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Plane:
    """f(a, b) = L(θ* + a δ + b η). coordinates: float64 [n], both axes, 0 in the middle; values: float64 [n, n], row a,
    column b
    (and further axes where a metric gives arrays)."""

    coordinates: np.ndarray
    values: np.ndarray
    seed: int

    @property
    def centre(self) -> float:
        """The trained model's own value."""
        middle = len(self.coordinates) // 2
        return _number(self.values[middle, middle])


@dataclass(frozen=True)
class Lines:
    """f_k(t) = L(θ* + t d_k) along independent directions. coordinates: float64 [n], ascending, 0 among them; values:
    float64
    [directions, n] (and further axes where a metric gives arrays). The first two directions are the axes of the plane
    of the same seed."""

    coordinates: np.ndarray
    values: np.ndarray
    seed: int

    @property
    def centre(self) -> float:
        """The trained model's own value."""
        return _number(self.values[0, int(np.flatnonzero(self.coordinates == 0)[0])])

    @property
    def directions(self) -> int:
        return len(self.values)

    def band(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean over the directions at each coordinate, and Student's t interval of that mean: low, high; NaN for one
        direction.
        """
        return interval(self.values, level)

    def rises(self, radius: float) -> np.ndarray:
        """Each direction's rise (f(r) + f(−r)) / 2 − f(0): float64 [directions]. Raises KitError for a radius that was
        not evaluated.
        """
        low, high = np.flatnonzero(self.coordinates == -radius), np.flatnonzero(self.coordinates == radius)
        if not len(low) or not len(high):
            radii = ", ".join(f"{t:g}" for t in self.coordinates if t > 0)
            raise KitError(f"the lines have no value at radius {radius:g}; they have: {radii}")
        return (self.values[:, high[0]] + self.values[:, low[0]]) / 2 - self.centre

    def rise(self, radius: float, level: float = 0.95) -> tuple[float, float, float]:
        """Mean rise over the directions, and Student's t interval of it: (mean, low, high)."""
        mean, low, high = interval(self.rises(radius), level)
        return float(mean), float(low), float(high)


def plane(
    model: nn.Module,
    data: ImageSet,
    *,
    steps: int = 21,
    radius: float = 1.0,
    seed: int = 0,
    batch_size: int = 256,
    metric: Metric | None = None,
    points_per_pass: int | None = None,
    path: str | Path | None = None,
    progress: Progress | None = None,
) -> Plane:
    """Evaluate the model on a (steps × steps) grid of a, b ∈ [−radius, radius], in evaluation mode.

    model: images → scores, on the device of its parameters; data: the images that the mean cross-entropy is taken over.
    steps: odd, so
    that the centre is the trained model itself. metric: any function of a loss_landscapes model wrapper to a number or
    an array of
    numbers (its own metrics among them) in place of the cross-entropy. points_per_pass: grid points evaluated together
    by
    torch.func.vmap (equal up to rounding; the centre is always evaluated alone); None: 1 on the CPU, by free memory on
    a GPU. path: a
    .npz that keeps what is done; the same call goes on from it. progress: called with points done and all. Raises
    KitError for an even
    number of steps and for a path that belongs to another plane.
    """
    coordinates = grid(steps, radius)
    points = np.stack(np.meshgrid(coordinates, coordinates, indexing="ij"), axis=-1).reshape(1, -1, 2)
    job = _Job(model, data, points, seed, metric, path, ("plane", steps, radius, seed))
    values = job.run(lambda _: (axis_name(0), axis_name(1)), batch_size, points_per_pass, progress)
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
    batch_size: int = 256,
    metric: Metric | None = None,
    points_per_pass: int | None = None,
    path: str | Path | None = None,
    progress: Progress | None = None,
) -> Lines:
    """Evaluate the model along `directions` independent filter-normalised lines through it, at `steps` points of
    [−radius, radius].

    radii: distances that are evaluated as well, on both sides, so that `Lines.rise` knows them. The rest as for
    `plane`.
    """
    check_lines(directions, radii)
    coordinates = np.unique(np.concatenate([grid(steps, radius), np.asarray(radii, float), -np.asarray(radii, float)]))
    points = np.broadcast_to(coordinates[:, None], (directions, len(coordinates), 1))
    job = _Job(model, data, points, seed, metric, path, ("line", directions, coordinates.tolist(), seed))
    return Lines(coordinates, job.run(lambda k: (axis_name(k),), batch_size, points_per_pass, progress), seed)


def grid(steps: int, radius: float) -> np.ndarray:
    """`steps` coordinates in [−radius, radius], 0 in the middle exactly. Raises KitError for an even number of
    steps.
    """
    if steps < 3 or steps % 2 == 0:
        odd = max(3, steps + 1)
        raise KitError(
            f"steps={steps}: give an odd number from 3, so that the grid's centre is the trained model; e.g. steps={odd}"
        )
    if not (radius > 0 and math.isfinite(radius)):
        raise KitError(f"radius={radius}: give a positive number; 1 moves every filter by its own norm")
    # built from whole numbers: the middle is 0 exactly
    return radius * np.arange(-(steps // 2), steps // 2 + 1) / (steps // 2)


def check_lines(directions: int, radii: Sequence[float]) -> None:
    if directions < 1:
        raise KitError(f"directions={directions}: give 1 or more; an interval needs 2")
    if not all(r > 0 and math.isfinite(r) for r in radii):
        raise KitError(f"radii={tuple(radii)}: give positive numbers, e.g. radii=(0.25, 0.5, 1.0)")


class _Job:
    """Points in groups [groups, n, axes], and the values found so far [groups, n, …]: NaN where there is none yet."""

    def __init__(
        self,
        model: nn.Module,
        data: ImageSet,
        points: np.ndarray,
        seed: int,
        metric: Metric | None,
        path: str | Path | None,
        what: tuple,
    ):
        self.model, self.data, self.points, self.seed, self.metric = model, data, points, seed, metric
        self.path, self.values = None if path is None else Path(path), None
        if self.path is not None:
            self.identity = _identity(model, data, metric, what)
            if self.path.is_file():
                self.values = self._resume()

    def run(
        self,
        axes_of: Callable[[int], tuple[str, ...]],
        batch_size: int,
        points_per_pass: int | None,
        progress: Progress | None,
    ) -> np.ndarray:
        walker, total = (
            Walker(self.model, self.data, batch_size, self.metric, points_per_pass),
            math.prod(self.points.shape[:2]),
        )
        if self.values is None:
            # alone and first: exact, and a metric shows what it gives
            centre = walker.value()
            self.values = np.full((*self.points.shape[:2], *centre.shape), np.nan)
            self.values[(self.points == 0).all(axis=-1)] = centre
        saved, changed = time.monotonic(), False
        for group, points in enumerate(self.points):
            rows = np.flatnonzero(np.isnan(self.values[group].reshape(len(points), -1)).any(axis=1))
            axes: list[Tensor] = [walker.axis(self.seed, name) for name in axes_of(group)] if len(rows) else []
            for part, found in walker.values(axes, points[rows]):
                self.values[group, rows[part]], changed = found, True
                if time.monotonic() - saved > SAVE_EVERY:
                    self._save()
                    saved = time.monotonic()
                if progress is not None:
                    progress(self._done(), total)
        if changed or (self.path is not None and not self.path.is_file()):
            self._save()
        return self.values

    def _done(self) -> int:
        return int((~np.isnan(self.values.reshape(*self.points.shape[:2], -1)).any(axis=-1)).sum())

    def _save(self) -> None:
        if self.path is not None:
            store.write_arrays(
                self.path, {"points": self.points, "values": self.values, "identity": np.array(self.identity)}
            )

    def _resume(self) -> np.ndarray:
        arrays = store.read_arrays(self.path)
        if str(arrays.get("identity")) != self.identity:
            raise KitError(
                f"{self.path} holds the landscape of another model, data set or grid: give another path, or delete it"
            )
        return arrays["values"]


def _identity(model: nn.Module, data: ImageSet, metric: Metric | None, what: tuple) -> str:
    # the first images stand for the rest: a test set of photographs is gigabytes
    order = torch.arange(1, len(data) + 1, device=data.device)
    pixels = int(next(iter(data.chunks(256)))[0].sum(dtype=torch.int64))
    seen = (tuple(data.images.shape), int((data.labels * order).sum()), int((data.index * order).sum()), pixels)
    of = getattr(metric, "__qualname__", type(metric).__qualname__)
    digest = hashlib.sha256(repr((what, seen, of)).encode())
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def interval(values: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over axis 0 and Student's t interval of it: mean, low, high; NaN for a single value."""
    n, mean = len(values), np.mean(values, axis=0)
    if n < 2:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    half = stats.t.ppf(0.5 + level / 2, n - 1) * np.std(values, axis=0, ddof=1) / math.sqrt(n)
    return mean, mean - half, mean + half


def _number(value: np.ndarray) -> float:
    if np.ndim(value):
        raise KitError(
            f"the metric gives arrays of shape {list(np.shape(value))}: read `values` at the centre instead of one number"
        )
    return float(value)
