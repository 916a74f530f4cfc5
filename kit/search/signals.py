"""The passes of a step: the training pass, and the further signals that a learner may ask for, a pass each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kit.augment.policy import Policy
from kit.hyper.base import HyperLearner
from kit.search import grads, ranks
from kit.search.grads import Gradient
from kit.space.network import Child, Network

Batch = tuple[Tensor, Tensor]
Batches = dict[str, Iterator[Batch]]


class TrainingPass(NamedTuple):
    """losses: per sample, detached; right: whether each prediction is; gradient: of the mean loss."""

    child: Child
    losses: Tensor
    right: Tensor
    gradient: Gradient


def training_pass(net: Network, x: Tensor, y: Tensor, child: Child) -> TrainingPass:
    """Forward and backward on an augmented batch, with mixup where it is on."""
    losses, predicted = net.losses(*mixed(x, y, net), child)
    return TrainingPass(child, losses.detach(), predicted == y, grads.backward(losses.mean(), net, child))


def on_request(
    net: Network, batches: Batches, augment: Policy, augmented: Batch, child: Child
) -> dict[str, Callable[..., Any]]:
    """The signals that cost a pass, as functions: outer(source), curvature(parameters, v) and reward(), which is
    measured once at most."""
    return {
        "outer": outer_gradient(net, batches, augment, child),
        "curvature": functools.partial(grads.curvature, net, augmented, child),
        "reward": functools.cache(lambda: accuracy(net, next(batches["val"]), child)),
    }


def outer_gradient(net: Network, batches: Batches, augment: Policy, child: Child) -> Callable[[str], Gradient]:
    """g' = ∇_θ L(θ'; B') on the batch that an η learner names: "val" as it is, "fresh" augmented like the training
    batch.

    The child is the step's own, its gates constant; BatchNorm statistics are left alone.
    """

    def gradient(source: str) -> Gradient:
        x, y = next(batches[source])
        if source == "fresh":
            x = augment.apply(x, augment.sample(len(x)))
        return held_gradient(net, (x, y), child.still())

    return gradient


def held_gradient(net: Network, held: Batch, child: Child) -> Gradient:
    """The gradient of the mean loss on a batch that is not trained on."""
    with net.still_statistics(child.picks):
        losses, _ = net.losses(*held, child)
    return grads.backward(losses.mean(), net, child)


def alignment(net: Network, batches: Batches, augmented: Batch, child: Child, gradient: Gradient, lr: Tensor) -> Tensor:
    """⟨∇L_val(θ'), ∇ℓ_k(θ)⟩ for every augmented image k, θ' = θ − lr · gradient (DAAS eq. 13): float [n]."""
    with grads.ahead(gradient, lr):
        outer = held_gradient(net, next(batches["val"]), child.still())
    return grads.directional(net, *augmented, child, outer)


def accuracy(net: Network, held: Batch, child: Child) -> float:
    """On a batch, in [0, 1]. By the batch's own BatchNorm statistics, since shared weights have no running ones that
    fit; without dropout and drop-path."""
    dropped, net.drop_path, net.dropout = (net.drop_path, net.dropout), 0.0, 0.0
    with torch.no_grad(), net.still_statistics(child.picks):
        _, predicted = net.losses(*held, child.still())
    net.drop_path, net.dropout = dropped
    return ranks.total((predicted == held[1]).float().mean()).item() / ranks.count()


def product(a: Gradient, b: Gradient) -> Tensor:
    """⟨a, b⟩ over the weights that both have: 0-dim."""
    other = {id(p): g for p, g in zip(b.parameters, b.theta)}
    return sum((g * other[id(p)]).sum() for p, g in zip(a.parameters, a.theta) if id(p) in other)


# ---- regularisation that a method may search -----------------------------------------------------


def regularize(net: Network, hyper: HyperLearner) -> None:
    """Set this step's dropout, drop-path and mixup, where the η learner decides them."""
    for name, value in hyper.draw().items():
        setattr(net, name, value)


def mixed(x: Tensor, y: Tensor, net: Network) -> Batch:
    """Mixup (Zhang et al. 2018) with the ratio net.mixup, the a of Beta(a, a): x' = λ x + (1 − λ) x_π.

    Labels are mixed alike and become float [n, classes]. Without mixup images and labels are returned as they are.
    """
    if not net.mixup:
        return x, y
    share = beta(net.mixup, net.mixer)
    order = ranks.own(torch.randperm(ranks.whole(len(x)), generator=net.mixer).to(x.device))
    dtype, partners, labels = net.mean.dtype, ranks.gather(x)[order], ranks.gather(y)[order]
    target, partners_target = (F.one_hot(classes, net.classes).to(dtype) for classes in (y, labels))
    return torch.lerp(partners.to(dtype), x.to(dtype), share), torch.lerp(partners_target, target, share)


def beta(a: float, generator: torch.Generator) -> float:
    """A draw from Beta(a, a), a ≤ 1, by Jöhnk's method: numbers of a generator whose state a run can keep."""
    while True:
        u, v = (torch.rand(2, generator=generator, dtype=torch.float64) ** (1 / a)).tolist()
        if 0 < u + v <= 1:
            return u / (u + v)
