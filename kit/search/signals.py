"""The passes of a step: the training pass, and the further signals that a learner may ask for, a pass each."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kit.hyper.base import HyperLearner
from kit.search import grads, ranks
from kit.search.grads import Gradient
from kit.search.parts import Parts
from kit.space.network import Child, Network

Batch = tuple[Tensor, Tensor]
Batches = dict[str, Iterator[Batch]]


class Pass(NamedTuple):
    """Forward and backward. losses: per sample, detached; right: whether each prediction is; gradient: of the mean."""

    child: Child
    losses: Tensor
    right: Tensor
    gradient: Gradient


def training_pass(net: Network, x: Tensor, y: Tensor, child: Child) -> Pass:
    """On an augmented batch, with mixup where it is on."""
    losses, predicted = net.losses(*mixed(x, y, net), child)
    return Pass(child, losses.detach(), predicted == y, grads.backward(losses.mean(), net, child))


def outer_pass(net: Network, batch: Batch, child: Child, *, gates: bool = False) -> Pass:
    """On a batch that is not trained on: BatchNorm's running statistics are left alone. gates: whether the child's
    gates get their gradient as well; else they are constants."""
    child = child if gates else child.detached()
    with net.frozen_statistics(child.picks):
        losses, predicted = net.losses(*batch, child)
    return Pass(child, losses.detach(), predicted == batch[1], grads.backward(losses.mean(), net, child))


def on_request(
    parts: Parts, batches: Batches, augmented: Batch, train: Pass, lr: Tensor
) -> dict[str, Callable[..., Any]]:
    """The signals that cost a pass, as functions. train: the pass on the augmented batch, of a step of length lr."""
    net, augment, child = parts.net, parts.augment, train.child

    def outer(source: str) -> Gradient:
        """g' = ∇_θ L(θ'; B') on a batch of this source: "val" as it is, "fresh" augmented like the training batch."""
        x, y = next(batches[source])
        if source == "fresh":
            x = augment.apply(x, augment.sample(len(x)))
        return outer_pass(net, (x, y), child).gradient

    def rewards() -> Tensor:
        """⟨∇L_val(θ'), ∇ℓ_k(θ)⟩ for every augmented image k, θ' = θ − lr · gradient (DAAS eq. 13): float [n]."""
        with grads.ahead(train.gradient, lr):
            of_val = outer_pass(net, next(batches["val"]), child).gradient
        return grads.directional(net, *augmented, child, of_val)

    @functools.cache
    def reward() -> float:
        return accuracy(net, next(batches["val"]), child)

    curvature = functools.partial(grads.curvature, net, augmented, child)
    return {"outer": outer, "rewards": rewards, "reward": reward, "curvature": curvature}


def accuracy(net: Network, held_out: Batch, child: Child) -> float:
    """On a batch, in [0, 1]. By the batch's own BatchNorm statistics, since shared weights have no running ones that
    fit; without dropout and drop-path."""
    dropped, net.drop_path, net.dropout = (net.drop_path, net.dropout), 0.0, 0.0
    with torch.no_grad(), net.frozen_statistics(child.picks):
        _, predicted = net.losses(*held_out, child.detached())
    net.drop_path, net.dropout = dropped
    return ranks.total((predicted == held_out[1]).float().mean()).item() / ranks.count()


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
