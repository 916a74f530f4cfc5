"""The step functions, as the papers print them. DHA and DiffAutoML share one; the bi-level and reward steps stand beside it."""

from __future__ import annotations

from typing import Callable, Iterator, NamedTuple

from torch import Tensor

from kit import grads
from kit.arch.base import ArchLearner
from kit.augment.policy import Policy
from kit.grads import Gradient, Momentum
from kit.hyper import HyperLearner, Values
from kit.space.network import Child, Network

Batch = tuple[Tensor, Tensor]


class Outcome(NamedTuple):
    """What a step reports, on the device: per-sample losses [N], correct predictions (int 0-dim), the η it used."""

    losses: Tensor
    correct: Tensor
    values: Values


def one_level(net: Network, batches: dict[str, Iterator[Batch]], arch: ArchLearner, augment: Policy, hyper: HyperLearner,
              sgd: Momentum, schedule: float) -> Outcome:  # fmt: skip
    """DHA, Algorithm 1: α, τ and θ from one backward pass on one training batch, η from the gradient after the step.

    batches: "train", and where the η learner reads them "fresh" (other training batches) and "val". schedule: the learning-rate
    schedule's factor at this step.
    """
    x, y = next(batches["train"])  # line 2
    draw = augment.sample(len(x))  # line 3
    child = arch.sample()  # lines 4, 5
    losses, predicted = net.losses(augment.apply(x, draw), y, child)
    gradient = grads.backward(losses.mean(), net, child)
    losses = losses.detach()
    hyper.observe(sgd.trace, gradient)  # look-ahead: this gradient closes the step before
    augment.update(draw, losses=losses)  # line 6, eq. 2
    values = hyper.sample(schedule)
    trace = sgd.step(gradient, *values)  # line 7, eq. 3
    arch.update(child, gates=gradient.gates)  # line 8, eq. 5–7
    hyper.update(trace, outer=outer_gradient(net, batches, augment, child))  # line 9, eq. 4
    return Outcome(losses, (predicted == y).sum(), values)


def outer_gradient(net: Network, batches: dict[str, Iterator[Batch]], augment: Policy, child: Child) -> Callable[[str], Gradient]:
    """g' = ∇_θ L(θ'; B') for the source that an η learner names: "val" as it is, "fresh" augmented like the training batch.

    The child is the step's own, its gates constant; BatchNorm statistics are left alone.
    """

    def gradient(source: str) -> Gradient:
        x, y = next(batches[source])
        if source == "fresh":
            x = augment.apply(x, augment.sample(len(x)))
        still = Child(child.picks, tuple(None if gate is None else gate.detach() for gate in child.gates))
        with net.still_statistics(child.picks):
            losses, _ = net.losses(x, y, still)
        return grads.backward(losses.mean(), net, still)

    return gradient


STEPS = {"one-level": one_level}
