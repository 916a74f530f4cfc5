"""The steps, as the papers print them: one level (DHA, DiffAutoML, AutoHAS) and two levels (DAAS, DARTS, GDAS).

batches: "train", and "fresh" (other training batches) and "val" where a learner reads them. schedule: the factor of
the learning-rate schedule at this step. Every learner gets every signal, so any learner works in any step."""

from functools import partial
from typing import NamedTuple

from pydantic import Field
from torch import Tensor

from kit.hyper.base import Values
from kit.registry import Options, Registry
from kit.search import signals
from kit.search.grads import Gradient
from kit.search.signals import Batches, Parts, on_request, policy_rewards

STEPS = Registry("step")


class Outcome(NamedTuple):
    """What a step reports, on the device: each image's loss [n], whether its prediction is right [n], the η it used."""

    losses: Tensor
    right: Tensor
    values: Values


# AutoHAS: 15,000 steps of search (of 45,000 images); as many epochs of training as TuNAS, which it follows
REWARD = {"batch_size": {"paper": 512}, "epochs": {"paper": 172 + 360}, "search_share": {"paper": 172 / 532}}


@STEPS.register("reward", title="Reward (AutoHAS)", brings=REWARD)
@STEPS.register("one-level", title="One level (DHA, DiffAutoML)")
def one_level(parts: Parts, batches: Batches, schedule: float) -> Outcome:
    """DHA, Algorithm 1: α, τ and θ from one backward pass on one training batch, η from the gradient after the step.

    AutoHAS, Algorithm 1, is the same step: the reward of a drawn (α, h) is the validation accuracy under the weights W*
    that a step with h gives; it moves the controllers of α and η, and the weights keep that step."""
    net, arch, augment, hyper, sgd = parts.net, parts.arch, parts.augment, parts.hyper, parts.sgd
    # line 2
    images, y = next(batches["train"])
    # line 3
    draw = augment.sample(len(y))
    signals.regularize(net, hyper)
    x = augment.apply(images, draw)
    # lines 4, 5: one child, one backward pass
    child = arch.sample()
    train = signals.training_pass(net, x, y, child)
    # look-ahead: this gradient closes the step before
    hyper.observe(sgd.trace, train.gradient)
    values = hyper.sample(schedule)
    measured = on_request(parts, batches, (x, y), child)
    rewards = policy_rewards(parts, (images, y), lambda: next(batches["val"]), child, values.lr)
    # line 6, eq. 2
    augment.update(draw, losses=train.losses, rewards=partial(rewards, draw), **measured)
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


@STEPS.register(
    "bi-level",
    title="Two levels (DAAS, DARTS, GDAS)",
    options=TwoLevelOptions,
    brings={
        "epochs": {"paper": 50 + 600},
        "search_share": {"paper": 50 / 650},
        "children": {"paper": 10, "server": 4, "laptop": 2},
        "arch_samples": {"paper": 5, "server": 2, "laptop": 1},
        "policies": {"paper": 2},
    },
)
def bi_level(parts: Parts, batches: Batches, schedule: float) -> Outcome:
    """DAAS, Algorithm 1: α and τ from the validation loss, θ from the training loss of several children (of one, where
    they are not drawn). A τ that reads no validation images learns from the training losses; DARTS, GDAS have none."""
    net, arch, augment, hyper, sgd = parts.net, parts.arch, parts.augment, parts.hyper, parts.sgd
    several = lambda n: [arch.sample() for _ in range(n if arch.draws else 1)]
    # line 2
    images, y = next(batches["train"])
    held_out = next(batches["val"])
    signals.regularize(net, hyper)
    lr = hyper.sample(schedule).lr
    draw = augment.sample(len(y))
    x = augment.apply(images, draw)
    upper = several(parts.draws.arch_samples)
    # line 3: means over n_arch architectures; eq. 9, at θ itself whatever τ does
    outer = partial(arch.unrolled, train=(x, y), lr=lr) if arch.unrolled else signals.validation_gradient
    reward = partial(signals.accuracy, net, held_out)
    of_arch = lambda child: arch.estimate(child, gates=outer(net, held_out, child).gates, reward=partial(reward, child))
    arch.follow([of_arch(child) for child in upper])
    # eq. 13
    if from_val := "val" in augment.needs:
        n = max(1, parts.draws.policies)
        each = [policy_rewards(parts, (images, y), lambda: held_out, child, lr, n) for child in upper]
        of_policy = lambda rewards, draw: augment.estimate(draw, rewards=partial(rewards, draw))
        augment.follow([of_policy(rewards, augment.sample(len(y))) for rewards in each for _ in range(n)])
    # line 4: eq. 14 as a mean over n_w children, so that lr, weight decay and clipping mean the same for any n_w. Its
    # sum by lr, weight_decay and clip is this mean by n_w · lr, weight_decay / n_w and clip / n_w
    passes = [signals.training_pass(net, x, y, child) for child in several(parts.draws.children)]
    gradient, last = Gradient.mean([one.gradient for one in passes]), passes[-1]
    measured = on_request(parts, batches, (x, y), last.child)
    if not from_val:
        augment.update(draw, losses=last.losses, **measured)
    hyper.observe(sgd.trace, gradient)
    values = hyper.sample(schedule)
    trace = sgd.step(gradient, *values)
    hyper.update(trace, **measured)
    return Outcome(last.losses, last.right, values)
