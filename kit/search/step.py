"""The three step functions, as the papers print them: one level (DHA, DiffAutoML), two levels (DAAS, DARTS, GDAS) and
reward (AutoHAS).

batches: "train", and "fresh" (other training batches) and "val" where a learner reads them. schedule: the factor of
the learning-rate schedule at this step. Every learner gets every signal, so any learner works in any step.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from pydantic import Field
from torch import Tensor

from kit import registry
from kit.arch.base import ArchLearner
from kit.augment.policy import Draw, Policy
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
    """DHA, Algorithm 1: α, τ and θ from one backward pass on one training batch, η from the gradient after the step."""
    arch, augment, hyper = learners.arch, learners.augment, learners.hyper
    x, y = next(batches["train"])  # line 2
    draw = augment.sample(len(x))  # line 3
    signals.regularize(net, hyper)
    x = augment.apply(x, draw)
    child, losses, right, gradient = signals.training_pass(net, x, y, arch.drawn())  # lines 4, 5
    hyper.observe(sgd.trace, gradient)  # look-ahead: this gradient closes the step before
    values = hyper.sample(schedule)
    rewards = partial(signals.alignment, net, batches, (x, y), child, gradient, values.lr)
    augment.update(draw, losses=losses, rewards=rewards)  # line 6, eq. 2
    trace = sgd.step(gradient, *values)  # line 7, eq. 3
    on_request = signals.on_request(net, batches, augment, (x, y), child)
    arch.update(child, gates=gradient.gates, **on_request)  # line 8, eq. 5–7
    hyper.update(trace, **on_request)  # line 9, eq. 4
    return Outcome(*grads.gathered(losses, right), values)


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
    """DAAS, Algorithm 1: α and τ from the validation loss, θ from the training loss of several children.

    With first_order α's gradient is the one of GDAS and first-order DARTS, at θ itself, and τ learns from the training
    step.
    """
    arch, augment, hyper, samples = learners.arch, learners.augment, learners.hyper, learners.samples
    x, y = train = next(batches["train"])
    held_out = next(batches["val"])
    signals.regularize(net, hyper)
    lr = hyper.sample(schedule).lr
    upper = [_upper_level(net, train, held_out, learners, lr) for _ in range(samples.arch)]
    arch.move(learner.average([of_arch for of_arch, _ in upper]))  # eq. 9
    if not samples.first_order:
        augment.move(learner.average([one for _, of_policy in upper for one in of_policy]))  # eq. 13

    draw = augment.sample(len(x))
    x = augment.apply(x, draw)
    passes = [signals.training_pass(net, x, y, arch.drawn()) for _ in range(samples.children)]
    gradient = Gradient.mean([one.gradient for one in passes])  # eq. 14
    child, losses, right, own_gradient = passes[-1]
    if samples.first_order:
        rewards = partial(signals.alignment, net, batches, (x, y), child, own_gradient, lr)
        augment.update(draw, losses=losses, rewards=rewards)
    hyper.observe(sgd.trace, gradient)
    values = hyper.sample(schedule)
    trace = sgd.step(gradient, *values)
    hyper.update(trace, **signals.on_request(net, batches, augment, (x, y), child))
    return Outcome(*grads.gathered(losses, right), values)


def _upper_level(
    net: Network, train: Batch, held_out: Batch, learners: Learners, lr: Tensor
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """One sampled architecture's share of the gradients of α and τ."""
    arch, augment, samples = learners.arch, learners.augment, learners.samples
    child = arch.drawn()
    reward = partial(signals.accuracy, net, held_out, child)
    if samples.first_order:
        return arch.estimate(child, gates=signals.held_gradient(net, held_out, child).gates, reward=reward), []
    tries = [_one_policy(net, train, child, augment) for _ in range(max(1, samples.policies))]
    with grads.ahead(Gradient.mean([one.gradient for one in tries]), lr):  # θ' (eq. 10)
        outer = signals.held_gradient(net, held_out, child)
        of_arch = arch.estimate(child, gates=outer.gates, reward=reward)  # eq. 9
    of_policy = []
    for one in tries:  # eq. 13: the reward is ⟨∇L_val(θ'), ∇L_train(θ)⟩
        if samples.policies:  # as in the paper: one reward for the policy that the whole batch shares
            rewards = lambda one=one: signals.product(outer, one.gradient).expand(len(one.losses))
        else:
            rewards = partial(grads.directional, net, one.augmented, train[1], child, outer)
        of_policy.append(augment.estimate(one.draw, losses=one.losses, rewards=rewards))
    return of_arch, of_policy


class _Try(NamedTuple):
    """A training batch under one draw of τ, with its losses and its gradient."""

    draw: Draw
    augmented: Tensor
    losses: Tensor
    gradient: Gradient


def _one_policy(net: Network, train: Batch, child: Child, augment: Policy) -> _Try:
    draw = augment.sample(len(train[0]))
    augmented = augment.apply(train[0], draw)
    with net.still_statistics(child.picks):
        losses, _ = net.losses(augmented, train[1], child.still())
    return _Try(draw, augmented, losses.detach(), grads.backward(losses.mean(), net, child.still()))


@STEPS.register("reward", title="Reward (AutoHAS)")
def reward(net: Network, batches: Batches, learners: Learners, sgd: Momentum, schedule: float) -> Outcome:
    """AutoHAS, Algorithm 1: the quality of a drawn (α, h) is the validation accuracy under the temporary weights that
    one step with h gives; it moves the controllers, and then the weights take that step for real."""
    arch, augment, hyper = learners.arch, learners.augment, learners.hyper
    x, y = next(batches["train"])
    draw = augment.sample(len(x))
    signals.regularize(net, hyper)
    x = augment.apply(x, draw)
    child, losses, right, gradient = signals.training_pass(net, x, y, arch.drawn())
    hyper.observe(sgd.trace, gradient)
    values = hyper.sample(schedule)
    on_request = signals.on_request(net, batches, augment, (x, y), child)

    def quality() -> float:
        with sgd.trial(gradient, *values):  # the temporary weights W*
            return on_request["reward"]()

    arch.update(child, gates=gradient.gates, **on_request | {"reward": quality})
    rewards = partial(signals.alignment, net, batches, (x, y), child, gradient, values.lr)
    augment.update(draw, losses=losses, rewards=rewards)
    trace = sgd.step(gradient, *values)
    hyper.update(trace, **on_request)  # the weights are W* now: a reward that was measured there is not measured again
    return Outcome(*grads.gathered(losses, right), values)
