"""The steps, as the papers print them: one level (DHA, DiffAutoML, AutoHAS) and two levels (DAAS, DARTS, GDAS).

batches: "train", and "fresh" (other training batches) and "val" where a learner reads them. schedule: the factor of
the learning-rate schedule at this step. Every learner gets every signal, so any learner works in any step."""

from functools import partial
from typing import NamedTuple

from pydantic import Field
from torch import Tensor

from kit.hyper.base import Values
from kit.registry import Options, Registry
from kit.search import grads, signals
from kit.search.grads import Gradient
from kit.search.signals import Batch, Batches, Parts, on_request

STEPS = Registry("step")


class Outcome(NamedTuple):
    """What a step reports, on the device: each image's loss [n], whether its prediction is right [n], the η it used."""

    losses: Tensor
    right: Tensor
    values: Values


@STEPS.register("reward", title="Reward (AutoHAS)")
@STEPS.register("one-level", title="One level (DHA, DiffAutoML)")
def one_level(parts: Parts, batches: Batches, schedule: float) -> Outcome:
    """DHA, Algorithm 1: α, τ and θ from one backward pass on one training batch, η from the gradient after the step.

    AutoHAS, Algorithm 1, is the same step: the reward of a drawn (α, h) is the validation accuracy under the weights W*
    that a step with h gives; it moves the controllers of α and η, and the weights keep that step."""
    net, arch, augment, hyper, sgd = parts.net, parts.arch, parts.augment, parts.hyper, parts.sgd
    # line 2
    x, y = next(batches["train"])
    # line 3
    draw = augment.sample(len(x))
    signals.regularize(net, hyper)
    x = augment.apply(x, draw)
    # lines 4, 5: one child, one backward pass
    child = arch.sample()
    train = signals.training_pass(net, x, y, child)
    # look-ahead: this gradient closes the step before
    hyper.observe(sgd.trace, train.gradient)
    values = hyper.sample(schedule)
    measured = on_request(parts, batches, (x, y), train, values.lr)
    # line 6, eq. 2
    augment.update(draw, losses=train.losses, **measured)
    # line 7, eq. 3
    trace = sgd.step(train.gradient, *values)
    # line 8, eq. 5–7
    arch.update(child, gates=train.gradient.gates, **measured)
    # line 9, eq. 4
    hyper.update(trace, **measured)
    return Outcome(train.losses, train.right, values)


class TwoLevelOptions(Options):
    children: int = Field(2, ge=1, le=100, description="two levels: children per step of θ (DAAS: n_w)")
    arch_samples: int = Field(1, ge=1, le=100, description="two levels: architectures per step of α, τ (DAAS: n_arch)")
    policies: int = Field(0, ge=0, le=100, description="two levels: policies per architecture (n_aug); 0: by image")
    first_order: bool = Field(True, description="two levels: α's gradient at θ itself, not one step ahead")


@STEPS.register(
    "bi-level",
    title="Two levels (DAAS, DARTS, GDAS)",
    options=TwoLevelOptions,
    brings={
        "children": {"paper": 10, "server": 4, "laptop": 2},
        "arch_samples": {"paper": 5, "server": 2, "laptop": 1},
        "policies": {"paper": 2},
    },
)
def bi_level(parts: Parts, batches: Batches, schedule: float) -> Outcome:
    """DAAS, Algorithm 1: α and τ from the validation loss, θ from the training loss of several children. first_order:
    α's gradient is that of GDAS and first-order DARTS, at θ itself, and τ learns from the training step."""
    net, arch, augment, hyper, sgd = parts.net, parts.arch, parts.augment, parts.hyper, parts.sgd
    x, y = train = next(batches["train"])
    held_out = next(batches["val"])
    signals.regularize(net, hyper)
    lr = hyper.sample(schedule).lr
    # eq. 9 and 13: the mean over n_arch architectures
    upper = [_upper_level(parts, train, held_out, lr) for _ in range(parts.draws.arch_samples)]
    arch.follow([of_arch for of_arch, _ in upper])
    if not parts.draws.first_order:
        augment.follow([estimate for _, of_policies in upper for estimate in of_policies])
    # eq. 14, as a mean over n_w children
    draw = augment.sample(len(x))
    x = augment.apply(x, draw)
    children = [arch.sample() for _ in range(parts.draws.children)]
    passes = [signals.training_pass(net, x, y, child) for child in children]
    gradient, last = Gradient.mean([one.gradient for one in passes]), passes[-1]
    measured = on_request(parts, batches, (x, y), last, lr)
    if parts.draws.first_order:
        augment.update(draw, losses=last.losses, **measured)
    hyper.observe(sgd.trace, gradient)
    values = hyper.sample(schedule)
    trace = sgd.step(gradient, *values)
    hyper.update(trace, **measured)
    return Outcome(last.losses, last.right, values)


def _upper_level(parts: Parts, train: Batch, held_out: Batch, lr: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
    """The gradients of α and of τ, for each of its draws, under one sampled architecture."""
    (x, y), net, arch, augment, draws = train, parts.net, parts.arch, parts.augment, parts.draws
    child = arch.sample()
    reward = partial(signals.accuracy, net, held_out, child)
    if draws.first_order:
        outer = signals.outer_pass(net, held_out, child).gradient
        return arch.estimate(child, gates=outer.gates, reward=reward), []
    policies = [augment.sample(len(x)) for _ in range(max(1, draws.policies))]
    augmented = [augment.apply(x, policy) for policy in policies]
    passes = [signals.outer_pass(net, (images, y), child.detached()) for images in augmented]
    # eq. 10: one step ahead, at θ'
    with grads.ahead(Gradient.mean([one.gradient for one in passes]), lr):
        # eq. 9
        outer = signals.outer_pass(net, held_out, child).gradient
        of_arch = arch.estimate(child, gates=outer.gates, reward=reward)
    of_policies = []
    for policy, images, one in zip(policies, augmented, passes):
        # eq. 13: the reward is ⟨∇L_val(θ'), ∇L_train(θ)⟩; the paper's, of a policy that the whole batch shares, is one
        rewards = partial(grads.directional, net, images, y, child, outer)
        if draws.policies:
            rewards = lambda one=one: outer.dot(one.gradient).expand(len(one.losses))
        of_policies.append(augment.estimate(policy, losses=one.losses, rewards=rewards))
    return of_arch, of_policies
