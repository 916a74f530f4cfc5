"""Numbers for flatness: the rise of the loss at a distance, and the Hessian's largest eigenvalue."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kit.data import ImageSet, stratified_split
from kit.errors import KitError
from kit.search.learner import generator
from kit.studies.landscape.grid import Progress, line


def sharpness(
    model: nn.Module,
    data: ImageSet,
    *,
    radii: Sequence[float] = (0.25, 0.5, 1.0),
    directions: int = 10,
    seed: int = 0,
    batch_size: int = 256,
    eigenvalue_images: int = 512,
    points_per_pass: int | None = None,
) -> dict[str, float]:
    """How fast the loss rises around the model, in numbers.

    {"rise@r": mean over `directions` independent filter-normalised directions d of (L(θ* + r d) + L(θ* − r d)) / 2 −
    L(θ*), "rise@r/low",
    "rise@r/high": Student's 95% interval of that mean; for each radius r; "directions": n; "eigenvalue": the largest of
    the loss's
    Hessian over `eigenvalue_images` of the images, drawn evenly from the classes (0: all)}.
    """
    if not radii:
        raise KitError("radii=(): give at least one, e.g. radii=(0.25, 0.5, 1.0)")
    found = line(
        model,
        data,
        directions=directions,
        steps=3,
        radius=max(radii),
        radii=radii,
        seed=seed,
        batch_size=batch_size,
        points_per_pass=points_per_pass,
    )
    result: dict[str, float] = {}
    for r in radii:
        result[f"rise@{r:g}"], result[f"rise@{r:g}/low"], result[f"rise@{r:g}/high"] = found.rise(r)
    part = some(data, min(eigenvalue_images, len(data)))
    return result | {
        "directions": directions,
        "eigenvalue": largest_eigenvalue(model, part.images, part.labels, batch_size=batch_size),
    }


def some(data: ImageSet, n: int) -> ImageSet:
    """About n images with the classes' shares kept, the same ones every time; 0, or as many as there are: all of
    them.
    """
    if n < 0 or n > len(data):
        raise KitError(f"images={n:,}: there are {len(data):,}; 0 takes them all")
    if n in (0, len(data)):
        return data
    _, kept = stratified_split(data.labels, n / len(data))
    return data.take(kept)


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
    progress: Progress | None = None,
) -> float:
    """The Hessian's eigenvalue of largest magnitude, by power iteration on Hessian-vector products; evaluation mode,
    all parameters.

    loss: mean over a batch of (scores, targets). Stops when the estimate changes by less than tol, relatively.
    progress: called with the iterations done and, until it stops, the most there can be.
    """
    twin = copy.deepcopy(model).eval()
    parameters = [p.requires_grad_() for p in twin.parameters()]
    v = [
        torch.randn(p.shape, generator=generator(seed, f"eigenvector/{i}"), dtype=p.dtype).to(p.device)
        for i, p in enumerate(parameters)
    ]
    estimate = 0.0
    for iteration in range(iterations):
        norm = torch.stack([x.square().sum() for x in v]).sum().sqrt()
        v = [x / norm for x in v]
        product = _hessian_product(twin, parameters, v, images, targets, loss, batch_size)
        before, estimate = estimate, float(sum((h * d).sum() for h, d in zip(product, v)))
        v = product
        settled = abs(estimate - before) <= tol * abs(estimate) or all(not x.any() for x in v)
        if progress is not None:
            progress(iteration + 1, iteration + 1 if settled else iterations)
        if settled:
            break
    return estimate


def _hessian_product(
    twin: nn.Module,
    parameters: list[Tensor],
    v: list[Tensor],
    images: Tensor,
    targets: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    batch_size: int,
) -> list[Tensor]:
    product = [torch.zeros_like(p) for p in parameters]
    for i in range(0, len(images), batch_size):
        x, y = images[i : i + batch_size], targets[i : i + batch_size]
        gradient = torch.autograd.grad(
            loss(twin(x), y) * (len(x) / len(images)), parameters, create_graph=True, materialize_grads=True
        )
        along = sum((g * d).sum() for g, d in zip(gradient, v))
        for total, part in zip(product, torch.autograd.grad(along, parameters, materialize_grads=True)):
            total += part
    return product
