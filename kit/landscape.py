"""Loss landscape around a trained model (Li et al. 2018; DHA Fig. 3; METHOD section 5) and numbers for its flatness.

The package loss_landscapes supplies metrics and the model wrapper that they expect; directions and grid are built here (its own walk
leaves the centre, see METHOD section 5). The caller's model is never moved: a copy is.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kit import store
from kit.data import ImageSet
from kit.errors import KitError
from kit.learner import generator

Metric = Callable[[Any], float]
SAVE_EVERY = 30.0  # seconds between two writes of an unfinished plane


@dataclass(frozen=True)
class Plane:
    """f(a, b) = L(θ* + a δ + b η). coordinates: float64 [n], both axes, 0 in the middle; values: float64 [n, n], row a, column b."""

    coordinates: np.ndarray
    values: np.ndarray
    seed: int

    @property
    def centre(self) -> float:
        """The trained model's own value."""
        return float(self.values[len(self.coordinates) // 2, len(self.coordinates) // 2])


def direction(model: nn.Module, seed: int, which: str = "δ") -> dict[str, Tensor]:
    """A Gaussian direction, each filter (row of a weight) rescaled to the norm of the trained one; zero for biases and BatchNorm.

    Drawn per parameter from its name, so that models that share a layer get the same numbers for it. Float tensors by name.
    """
    drawn = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            drawn[name] = torch.zeros_like(parameter, requires_grad=False)
            continue
        noise = torch.randn(parameter.shape, generator=generator(seed, f"{which}/{name}"), dtype=parameter.dtype).to(parameter.device)
        rows = noise.flatten(1).norm(dim=1)
        scale = parameter.detach().flatten(1).norm(dim=1) / rows.clamp(min=torch.finfo(noise.dtype).tiny)
        drawn[name] = noise * scale.view(-1, *[1] * (parameter.ndim - 1))
    return drawn


def plane(model: nn.Module, data: ImageSet, *, steps: int = 21, radius: float = 1.0, seed: int = 0, batch_size: int = 256,
          metric: Metric | None = None, path: str | Path | None = None, progress: Callable[[int, int], None] | None = None) -> Plane:  # fmt: skip
    """Evaluate the model on a (steps × steps) grid of a, b ∈ [−radius, radius], in evaluation mode.

    model: images → scores, on the device of its parameters; data: the images that the mean cross-entropy is taken over. steps: odd, so
    that the centre is the trained model itself. metric: any function of a loss_landscapes model wrapper to a number (its own metrics
    among them) in place of the cross-entropy. path: a .npz that keeps what is done; the same call goes on from it. progress: called
    with points done and all. Raises KitError for an even number of steps and for a path that belongs to another plane.
    """
    if steps < 3 or steps % 2 == 0:
        raise KitError(f"steps={steps}: give an odd number from 3, so that the grid's centre is the trained model; e.g. steps={steps + 1}")
    walker = _Walker(model, data, seed, batch_size, metric)
    # built from whole numbers: the middle is 0 exactly
    coordinates = radius * np.arange(-(steps // 2), steps // 2 + 1) / (steps // 2)
    values, identity = np.full((steps, steps), np.nan), _identity(model, data, steps, radius, seed)
    if path is not None and Path(path).is_file():
        values = _resume(Path(path), identity, values)
    saved = time.monotonic()
    for done, (i, j) in enumerate(np.ndindex(steps, steps), 1):
        if np.isnan(values[i, j]):
            values[i, j] = walker.value(coordinates[i], coordinates[j])
        if path is not None and (time.monotonic() - saved > SAVE_EVERY or done == steps * steps):
            store.write_arrays(Path(path), {"coordinates": coordinates, "values": values, "identity": np.array(identity)})
            saved = time.monotonic()
        if progress is not None:
            progress(done, steps * steps)
    return Plane(coordinates, values, seed)


def sharpness(model: nn.Module, data: ImageSet, *, radii: Sequence[float] = (0.25, 0.5, 1.0), angles: int = 8, seed: int = 0,
              batch_size: int = 256, eigenvalue_images: int = 512) -> dict[str, float]:  # fmt: skip
    """{"rise@r": mean of L(θ* + r (cos φ δ + sin φ η)) − L(θ*) over `angles` directions φ of the plane of `seed`, for each radius r;
    "eigenvalue": the largest of the loss's Hessian, over the first `eigenvalue_images` images}."""
    walker = _Walker(model, data, seed, batch_size, None)
    centre = walker.value(0.0, 0.0)
    result = {}
    for r in radii:
        circle = [2 * math.pi * k / angles for k in range(angles)]
        result[f"rise@{r:g}"] = sum(walker.value(r * math.cos(phi), r * math.sin(phi)) for phi in circle) / angles - centre
    part = data.images[:eigenvalue_images], data.labels[:eigenvalue_images]
    return result | {"eigenvalue": largest_eigenvalue(model, *part, batch_size=batch_size)}


def largest_eigenvalue(model: nn.Module, images: Tensor, targets: Tensor, *, loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
                       batch_size: int = 256, iterations: int = 100, tol: float = 1e-4, seed: int = 0) -> float:  # fmt: skip
    """The Hessian's eigenvalue of largest magnitude, by power iteration on Hessian-vector products; evaluation mode, all parameters.

    loss: mean over a batch of (scores, targets). Stops when the estimate changes by less than tol, relatively.
    """
    twin = copy.deepcopy(model).eval()
    parameters = [p.requires_grad_() for p in twin.parameters()]
    v = [torch.randn(p.shape, generator=generator(seed, f"eigenvector/{i}"), dtype=p.dtype).to(p.device) for i, p in enumerate(parameters)]
    estimate = 0.0
    for _ in range(iterations):
        norm = torch.stack([x.square().sum() for x in v]).sum().sqrt()
        v = [x / norm for x in v]
        product = [torch.zeros_like(p) for p in parameters]
        for i in range(0, len(images), batch_size):
            x, y = images[i : i + batch_size], targets[i : i + batch_size]
            gradient = torch.autograd.grad(loss(twin(x), y) * (len(x) / len(images)), parameters, create_graph=True, materialize_grads=True)
            along = sum((g * d).sum() for g, d in zip(gradient, v))
            for total, part in zip(product, torch.autograd.grad(along, parameters, materialize_grads=True)):
                total += part
        before, estimate = estimate, float(sum((h * d).sum() for h, d in zip(product, v)))
        v = product
        if abs(estimate - before) <= tol * abs(estimate) or all(not x.any() for x in v):
            break
    return estimate


class _Walker:
    """A copy of the model that stands wherever it is told to on the plane."""

    def __init__(self, model: nn.Module, data: ImageSet, seed: int, batch_size: int, metric: Metric | None):
        self.twin = copy.deepcopy(model).eval().requires_grad_(False)
        self.start = [p.detach().clone() for p in model.parameters()]
        self.first, self.second = ([*direction(model, seed, which).values()] for which in ("δ", "η"))
        self.batches = [(data.images[i : i + batch_size], data.labels[i : i + batch_size]) for i in range(0, len(data), batch_size)]
        self.count, self.metric = len(data), metric

    @torch.no_grad()
    def value(self, a: float, b: float) -> float:
        moved = torch._foreach_add(self.start, self.first, alpha=float(a))
        torch._foreach_add_(moved, self.second, alpha=float(b))
        torch._foreach_copy_(list(self.twin.parameters()), moved)
        if self.metric is not None:
            from loss_landscapes.model_interface.model_wrapper import SimpleModelWrapper

            with torch.enable_grad():
                return float(self.metric(SimpleModelWrapper(self.twin)))
        total = sum(F.cross_entropy(self.twin(x), y, reduction="none").sum() for x, y in self.batches)
        return float(total) / self.count


def _identity(model: nn.Module, data: ImageSet, steps: int, radius: float, seed: int) -> str:
    digest = hashlib.sha256(repr((steps, radius, seed, len(data))).encode())
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _resume(path: Path, identity: str, empty: np.ndarray) -> np.ndarray:
    arrays = store.read_arrays(path)
    if str(arrays.get("identity")) != identity:
        raise KitError(f"{path} holds the plane of another model, data set or grid: give another path, or delete it")
    return arrays["values"] if arrays["values"].shape == empty.shape else empty
