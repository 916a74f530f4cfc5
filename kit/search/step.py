"""The three step functions, as the papers print them: one level (DHA, DiffAutoML), two levels (DAAS, DARTS, GDAS) and
reward (AutoHAS).

Each hands every learner all signals, those that cost a pass as functions, so that any learner works in any of them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import Field
from torch import Tensor

from kit import registry
from kit.arch.base import ArchLearner
from kit.augment.policy import Policy
from kit.hyper.base import HyperLearner, Values
from kit.search import grads, learner, signals
from kit.search.grads import Gradient, Momentum
from kit.search.signals import Batch, Batches
from kit.space.network import Child, Network

STEPS = registry.Registry("step")


class Outcome(NamedTuple):
    """What a step reports, on the device: per-sample losses [N], correct predictions (int 0-dim), the η it used."""

    losses: Tensor
    correct: Tensor
    values: Values


@dataclass(frozen=True)
class Samples:
    """How often a two-level step draws.

    children: children that θ's gradient is the mean over (DAAS: n_w). arch: architectures for α's and τ's gradients
    (n_arch). policies: draws of τ per architecture, each shared by the batch (n_aug); 0: one draw per image.
    first_order: α's gradient is taken at θ itself (GDAS) and not one step ahead.
    """

    children: int = 1
    arch: int = 1
    policies: int = 0
    first_order: bool = True


@dataclass(frozen=True)
class Learners:
    """What moves with the weights: α, τ and η, and how often a two-level step draws them."""

    arch: ArchLearner
    augment: Policy
    hyper: HyperLearner
    samples: Samples = Samples()


@STEPS.register("one-level", title="One level (DHA, DiffAutoML)")
def one_level(net: Network, batches: Batches, learners: Learners, sgd: Momentum, schedule: float) -> Outcome:
    """DHA, Algorithm 1: α, τ and θ from one backward pass on one training batch, η from the gradient after the step.

    batches: "train", and where a learner reads them "fresh" (other training batches) and "val". schedule: the factor of
    the learning-rate schedule at this step.
    """
    arch, augment, hyper = learners.arch, learners.augment, learners.hyper
    x, y = next(batches["train"])  # line 2
    draw = augment.sample(len(x))  # line 3
    signals.regularize(net, hyper)
    child = arch.drawn()  # lines 4, 5
    x = augment.apply(x, draw)
    losses, predicted = net.losses(*signals.mixed(x, y, net), child)
    gradient = grads.backward(losses.mean(), net, child)
    batch_losses, correct = grads.gathered(losses, predicted == y)
    hyper.observe(sgd.trace, gradient)  # look-ahead: this gradient closes the step before
    values = hyper.sample(schedule)
    rewards = lambda: signals.alignment(net, batches, (x, y), child, gradient, values.lr)
    augment.update(draw, losses=losses.detach(), rewards=rewards)  # line 6, eq. 2
    trace = sgd.step(gradient, *values)  # line 7, eq. 3
    reward = functools.cache(lambda: signals.accuracy(net, next(batches["val"]), child))
    arch.update(child, gates=gradient.gates, reward=reward)  # line 8, eq. 5–7
    outer, curvature = signals.outer_gradient(net, batches, augment, child), signals.curvature(net, x, y, child)
    hyper.update(trace, outer=outer, reward=reward, curvature=curvature)  # line 9, eq. 4
    return Outcome(batch_losses, correct, values)


class TwoLevelOptions(registry.Options):
    children: int = Field(2, ge=1, le=100, description="two levels: children per step of θ (DAAS: n_w)")
    arch_samples: int = Field(
        1, ge=1, le=100, description="two levels: architectures per step of α and τ (DAAS: n_arch)"
    )
    policies: int = Field(
        0, ge=0, le=100, description="two levels: policies per architecture (DAAS: n_aug); 0: one per image"
    )
    first_order: bool = Field(True, description="two levels: α's gradient at θ itself, not one step ahead")


@STEPS.register(
    "bi-level",
    title="Two levels (DAAS, DARTS, GDAS)",
    options=TwoLevelOptions,
    brings={
        "children": {"paper": 10, "server": 4, "laptop": 2},
        "arch_samples": {"paper": 5, "server": 2, "laptop": 1},
        "policies": {"paper": 2, "server": 0, "laptop": 0},
    },
)
def bi_level(net: Network, batches: Batches, learners: Learners, sgd: Momentum, schedule: float) -> Outcome:
    """DAAS, Algorithm 1: α and τ from the validation loss (eq. 9, 13), θ from the training loss of several children
    (eq. 14).

    With first_order the α gradient is GDAS's and first-order DARTS's, at θ itself, and τ learns from the training step.
    """
    arch, augment, hyper, samples = learners.arch, learners.augment, learners.hyper, learners.samples
    x, y = next(batches["train"])
    held = next(batches["val"])
    signals.regularize(net, hyper)
    lr = hyper.sample(schedule).lr
    estimates = [_level_above(net, (x, y), held, learners, lr) for _ in range(samples.arch)]
    arch.move(learner.average([by_arch for by_arch, _ in estimates]))  # eq. 9
    if not samples.first_order:
        augment.move(learner.average([estimate for _, by_policy in estimates for estimate in by_policy]))  # eq. 13

    draw = augment.sample(len(x))
    x = augment.apply(x, draw)
    passes = []
    for _ in range(samples.children):
        child = arch.drawn()
        losses, predicted = net.losses(*signals.mixed(x, y, net), child)
        passes.append((child, losses, predicted, grads.backward(losses.mean(), net, child)))
    gradient = Gradient.mean([g for *_, g in passes])  # eq. 14
    child, losses, predicted, own = passes[-1]
    batch_losses, correct = grads.gathered(losses, predicted == y)
    if samples.first_order:
        rewards = lambda: signals.alignment(net, batches, (x, y), child, own, lr)
        augment.update(draw, losses=losses.detach(), rewards=rewards)
    hyper.observe(sgd.trace, gradient)
    values = hyper.sample(schedule)
    trace = sgd.step(gradient, *values)
    reward = functools.cache(lambda: signals.accuracy(net, next(batches["val"]), child))
    outer, curvature = signals.outer_gradient(net, batches, augment, child), signals.curvature(net, x, y, child)
    hyper.update(trace, outer=outer, reward=reward, curvature=curvature)
    return Outcome(batch_losses, correct, values)


def _level_above(
    net: Network, train: Batch, held: Batch, learners: Learners, lr: Tensor
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """One sampled architecture's share of α's and τ's gradients."""
    arch, augment, samples = learners.arch, learners.augment, learners.samples
    child = arch.drawn()
    reward = functools.cache(lambda: signals.accuracy(net, held, child))
    if samples.first_order:
        return arch.estimate(child, gates=signals.held_gradient(net, held, child).gates, reward=reward), []
    tries = [_one_policy(net, train, child, augment) for _ in range(max(1, samples.policies))]
    with grads.ahead(Gradient.mean([t.gradient for t in tries]), lr):  # θ' (eq. 10)
        outer = signals.held_gradient(net, held, child)
        by_arch = arch.estimate(child, gates=outer.gates, reward=reward)
    by_policy = []
    for tried in tries:
        if samples.policies:  # the paper's form: one reward for the policy that the batch shares
            rewards = functools.partial(tried.shared_reward, outer)
        else:
            rewards = functools.partial(grads.directional, net, tried.augmented, train[1], child, outer)
        by_policy.append(augment.estimate(tried.draw, losses=tried.losses, rewards=rewards))
    return by_arch, by_policy


class _Try(NamedTuple):
    """A training batch under one draw of τ: what its gradient and losses are."""

    draw: Any
    augmented: Tensor
    losses: Tensor
    gradient: Gradient

    def shared_reward(self, outer: Gradient) -> Tensor:
        """⟨∇L_val(θ'), ∇L_train(θ)⟩, the same for every image (eq. 13)."""
        return signals.product(outer, self.gradient).expand(len(self.losses))


def _one_policy(net: Network, train: Batch, child: Child, augment: Policy) -> _Try:
    draw = augment.sample(len(train[0]))
    augmented = augment.apply(train[0], draw)
    with net.still_statistics(child.picks):
        losses, _ = net.losses(augmented, train[1], child.still())
    gradient = grads.backward(losses.mean(), net, child.still())
    return _Try(draw, augmented, losses.detach(), gradient)


@STEPS.register("reward", title="Reward (AutoHAS)")
def reward(net: Network, batches: Batches, learners: Learners, sgd: Momentum, schedule: float) -> Outcome:
    """AutoHAS, Algorithm 1: the quality of a drawn (α, h) is the validation accuracy under the temporary weights that
    one step with h gives; it moves the controllers, and then the weights take that step for real."""
    arch, augment, hyper = learners.arch, learners.augment, learners.hyper
    x, y = next(batches["train"])
    draw = augment.sample(len(x))
    signals.regularize(net, hyper)
    child = arch.drawn()
    x = augment.apply(x, draw)
    losses, predicted = net.losses(*signals.mixed(x, y, net), child)
    gradient = grads.backward(losses.mean(), net, child)
    batch_losses, correct = grads.gathered(losses, predicted == y)
    hyper.observe(sgd.trace, gradient)
    values = hyper.sample(schedule)

    @functools.cache
    def quality() -> float:
        with sgd.trial(gradient, *values):
            return signals.accuracy(net, next(batches["val"]), child)

    arch.update(child, gates=gradient.gates, reward=quality)
    rewards = lambda: signals.alignment(net, batches, (x, y), child, gradient, values.lr)
    augment.update(draw, losses=losses.detach(), rewards=rewards)
    trace = sgd.step(gradient, *values)
    hyper.update(
        trace,
        outer=signals.outer_gradient(net, batches, augment, child),
        curvature=signals.curvature(net, x, y, child),
        # the same step on the same batch gives W*: a quality that has been measured is not measured again
        reward=lambda: quality() if quality.cache_info().currsize else _measured(net, batches, child),
    )
    return Outcome(batch_losses, correct, values)


def _measured(net: Network, batches: Batches, child: Child) -> float:
    return signals.accuracy(net, next(batches["val"]), child)
