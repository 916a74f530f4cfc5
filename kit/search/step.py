"""The step functions, as the papers print them: one level (DHA, DiffAutoML), two levels (DAAS, DARTS, GDAS), reward
(AutoHAS).

All of them hand every learner all signals, those that cost a pass as functions, so that any learner works in any of
them. On several ranks
(`kit.search.ranks`) x and y are one's own share of the batch, while draws, losses, rewards and gradients are the whole
batch's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kit.arch.base import ArchLearner
from kit.augment.policy import Policy
from kit.hyper import HyperLearner, Values
from kit.search import grads, learner
from kit.search import ranks as distributed
from kit.search.grads import Gradient, Momentum
from kit.space.network import Child, Network

Batch = tuple[Tensor, Tensor]
Batches = dict[str, Iterator[Batch]]


class Outcome(NamedTuple):
    """What a step reports, on the device: per-sample losses [N], correct predictions (int 0-dim), the η it used."""

    losses: Tensor
    correct: Tensor
    values: Values


@dataclass(frozen=True)
class Samples:
    """How often two levels draw. children: that θ's gradient is the mean over (DAAS: n_w); arch: that α's and τ's are
    (n_arch); policies:
    draws of τ per child, each shared by the batch (n_aug); 0: one draw per image. first_order: α's gradient is taken at
    θ itself (GDAS)
    and not one step ahead."""

    children: int = 1
    arch: int = 1
    policies: int = 0
    first_order: bool = True


def one_level(
    net: Network,
    batches: Batches,
    arch: ArchLearner,
    augment: Policy,
    hyper: HyperLearner,
    sgd: Momentum,
    schedule: float,
    samples: Samples,
) -> Outcome:
    """DHA, Algorithm 1: α, τ and θ from one backward pass on one training batch, η from the gradient after the step.

    batches: "train", and where a learner reads them "fresh" (other training batches) and "val". schedule: the
    learning-rate schedule's
    factor at this step.
    """
    x, y = next(batches["train"])  # line 2
    draw = augment.sample(distributed.whole(len(x)))  # line 3
    regularize(net, hyper)
    child = _sampled(arch)  # lines 4, 5
    x = augment.apply(x, distributed.own(draw))
    losses, predicted = net.losses(*mixed(x, y, net), child)
    gradient = grads.backward(losses.mean(), net, child)
    losses, correct = _whole(losses, predicted, y)
    hyper.observe(sgd.trace, gradient)  # look-ahead: this gradient closes the step before
    values = hyper.sample(schedule)
    augment.update(
        draw, losses=losses, rewards=lambda: alignment(net, batches, x, y, child, gradient, values.lr)
    )  # line 6, eq. 2
    trace = sgd.step(gradient, *values)  # line 7, eq. 3
    reward = functools.cache(lambda: accuracy(net, batches, child))
    arch.update(child, gates=gradient.gates, reward=reward)  # line 8, eq. 5–7
    hyper.update(
        trace, outer=outer_gradient(net, batches, augment, child), reward=reward, curvature=_curvature(net, x, y, child)
    )  # line 9
    return Outcome(losses, correct, values)


def bi_level(
    net: Network,
    batches: Batches,
    arch: ArchLearner,
    augment: Policy,
    hyper: HyperLearner,
    sgd: Momentum,
    schedule: float,
    samples: Samples,
) -> Outcome:
    """DAAS, Algorithm 1: α and τ from the validation loss (eq. 9, 13), θ from the training loss (eq. 14) of several
    children.

    With samples.first_order the α gradient is GDAS's and first-order DARTS's, at θ itself, and τ learns from the
    training step.
    """
    x, y = next(batches["train"])
    held = next(batches["val"])
    regularize(net, hyper)
    lr = hyper.sample(schedule).lr
    found = [_probe(net, x, y, held, arch, augment, lr, samples) for _ in range(samples.arch)]
    arch.move(learner.average([by_arch for by_arch, _ in found]))
    if not samples.first_order:
        augment.move(learner.average([estimate for _, by_policy in found for estimate in by_policy]))

    draw = augment.sample(distributed.whole(len(x)))
    x = augment.apply(x, distributed.own(draw))
    passes = []
    for _ in range(samples.children):
        child = _sampled(arch)
        losses, predicted = net.losses(*mixed(x, y, net), child)
        passes.append((child, losses, predicted, grads.backward(losses.mean(), net, child)))
    gradient = Gradient.mean([g for *_, g in passes])
    child, losses, predicted, own = passes[-1]
    losses, correct = _whole(losses, predicted, y)
    if samples.first_order:
        augment.update(draw, losses=losses, rewards=lambda: alignment(net, batches, x, y, child, own, lr))
    hyper.observe(sgd.trace, gradient)
    values = hyper.sample(schedule)
    trace = sgd.step(gradient, *values)
    reward = functools.cache(lambda: accuracy(net, batches, child))
    hyper.update(
        trace, outer=outer_gradient(net, batches, augment, child), reward=reward, curvature=_curvature(net, x, y, child)
    )
    return Outcome(losses, correct, values)


def _probe(
    net: Network, x: Tensor, y: Tensor, held: Batch, arch: ArchLearner, augment: Policy, lr: Tensor, samples: Samples
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """One sampled architecture's share of α's and τ's gradients."""
    child = _sampled(arch)
    reward = functools.cache(lambda: _accuracy(net, held, child))
    if samples.first_order:
        return arch.estimate(child, gates=_held_gradient(net, held, child).gates, reward=reward), []
    tries = []
    for _ in range(max(1, samples.policies)):
        draw = augment.sample(distributed.whole(len(x)))
        augmented = augment.apply(x, distributed.own(draw))
        with net.still_statistics(child.picks):
            losses, _ = net.losses(augmented, y, child.still())
        tries.append(
            (draw, augmented, distributed.gather(losses.detach()), grads.backward(losses.mean(), net, child.still()))
        )
    with grads.ahead(Gradient.mean([g for *_, g in tries]), lr):  # θ' (eq. 10)
        outer = _held_gradient(net, held, child)
        by_arch = arch.estimate(child, gates=outer.gates, reward=reward)
    by_policy = []
    for draw, augmented, losses, own in tries:
        rewards = (
            (lambda own=own, losses=losses: _product(outer, own).expand(len(losses)))
            if samples.policies
            else (lambda augmented=augmented: distributed.gather(grads.directional(net, augmented, y, child, outer)))
        )
        by_policy.append(augment.estimate(draw, losses=losses, rewards=rewards))
    return by_arch, by_policy


def reward(
    net: Network,
    batches: Batches,
    arch: ArchLearner,
    augment: Policy,
    hyper: HyperLearner,
    sgd: Momentum,
    schedule: float,
    samples: Samples,
) -> Outcome:
    """AutoHAS, Algorithm 1: the quality of a drawn (α, h) is the validation accuracy under the temporary weights that
    one step with h
    gives; it moves the controllers, and then the weights take that step for real."""
    x, y = next(batches["train"])
    draw = augment.sample(distributed.whole(len(x)))
    regularize(net, hyper)
    child = _sampled(arch)
    x = augment.apply(x, distributed.own(draw))
    losses, predicted = net.losses(*mixed(x, y, net), child)
    gradient = grads.backward(losses.mean(), net, child)
    losses, correct = _whole(losses, predicted, y)
    hyper.observe(sgd.trace, gradient)
    values = hyper.sample(schedule)

    @functools.cache
    def quality() -> float:
        with sgd.trial(gradient, *values):
            return accuracy(net, batches, child)

    arch.update(child, gates=gradient.gates, reward=quality)
    augment.update(draw, losses=losses, rewards=lambda: alignment(net, batches, x, y, child, gradient, values.lr))
    trace = sgd.step(gradient, *values)
    # the same step on the same batch: what it gives is W*, so the quality is not measured twice
    hyper.update(
        trace,
        outer=outer_gradient(net, batches, augment, child),
        curvature=_curvature(net, x, y, child),
        reward=functools.cache(lambda: quality() if quality.cache_info().currsize else accuracy(net, batches, child)),
    )
    return Outcome(losses, correct, values)


def _sampled(arch: ArchLearner) -> Child:
    child = arch.sample()
    return distributed.same(child, child.picks)


def _whole(losses: Tensor, predicted: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Of the whole batch: per-sample losses [N], detached, and how many predictions were right."""
    losses, right = losses.detach(), predicted == y
    if distributed.count() > 1:
        losses, right = distributed.gather(torch.stack([losses, right.to(losses.dtype)], dim=1)).unbind(1)
    return losses, right.sum()


# ---- signals -------------------------------------------------------------------------------------


def outer_gradient(net: Network, batches: Batches, augment: Policy, child: Child) -> Callable[[str], Gradient]:
    """g' = ∇_θ L(θ'; B') for the source that an η learner names: "val" as it is, "fresh" augmented like the training
    batch.

    The child is the step's own, its gates constant; BatchNorm statistics are left alone.
    """

    def gradient(source: str) -> Gradient:
        x, y = next(batches[source])
        if source == "fresh":
            x = augment.apply(x, distributed.own(augment.sample(distributed.whole(len(x)))))
        return _held_gradient(net, (x, y), child.still())

    return gradient


def alignment(
    net: Network, batches: Batches, x: Tensor, y: Tensor, child: Child, gradient: Gradient, lr: Tensor
) -> Tensor:
    """⟨∇L_val(θ'), ∇ℓ_k(θ)⟩ for every augmented image of the batch, θ' one plain step along the training gradient (DAAS
    eq. 13): float [N].
    """
    with grads.ahead(gradient, lr):
        outer = _held_gradient(net, next(batches["val"]), child.still())
    return distributed.gather(grads.directional(net, x, y, child, outer))


def accuracy(net: Network, batches: Batches, child: Child) -> float:
    """On the next validation batch, by the batch's own BatchNorm statistics: shared weights have no running ones that
    fit.
    """
    return _accuracy(net, next(batches["val"]), child)


@torch.no_grad()
def _accuracy(net: Network, held: Batch, child: Child) -> float:
    dropped, net.drop_path, net.dropout = (net.drop_path, net.dropout), 0.0, 0.0
    with net.still_statistics(child.picks):
        _, predicted = net.losses(*held, child.still())
    net.drop_path, net.dropout = dropped
    return distributed.total((predicted == held[1]).float().mean()).item() / distributed.count()


def _held_gradient(net: Network, held: Batch, child: Child) -> Gradient:
    with net.still_statistics(child.picks):
        losses, _ = net.losses(*held, child)
    return grads.backward(losses.mean(), net, child)


def _product(a: Gradient, b: Gradient) -> Tensor:
    other = {id(p): g for p, g in zip(b.parameters, b.theta)}
    return sum((g * other[id(p)]).sum() for p, g in zip(a.parameters, a.theta) if id(p) in other)


def _curvature(net: Network, x: Tensor, y: Tensor, child: Child) -> Callable[[Any, Any], list[Tensor]]:
    return lambda parameters, v: grads.curvature(net, x, y, child, parameters, v)


# ---- regularisation that a method searches -------------------------------------------------------


def regularize(net: Network, hyper: HyperLearner) -> None:
    """This step's dropout, drop-path and mixup, where the η learner decides them."""
    for name, value in hyper.draw().items():
        setattr(net, name, value)


def mixed(x: Tensor, y: Tensor, net: Network) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018) with ratio net.mixup, the parameter of Beta(a, a): x' = λ x + (1 − λ) x_π, and labels
    alike as float
    [N, classes]. Without mixup images and labels as they are."""
    if not net.mixup:
        return x, y
    share = _beta(net.mixup, net.mixer)
    order = distributed.own(torch.randperm(distributed.whole(len(x)), generator=net.mixer).to(x.device))
    dtype, partners, labels = net.mean.dtype, distributed.gather(x)[order], distributed.gather(y)[order]
    target, partners_target = (F.one_hot(classes, net.classes).to(dtype) for classes in (y, labels))
    return torch.lerp(partners.to(dtype), x.to(dtype), share), torch.lerp(partners_target, target, share)


def _beta(a: float, generator: torch.Generator) -> float:
    """A draw from Beta(a, a), a ≤ 1, by Jöhnk's method: numbers of a generator whose state a run can keep."""
    while True:
        u, v = (torch.rand(2, generator=generator, dtype=torch.float64) ** (1 / a)).tolist()
        if 0 < u + v <= 1:
            return u / (u + v)


STEPS = {"one-level": one_level, "bi-level": bi_level, "reward": reward}
