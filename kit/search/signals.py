"""What a step works with, `Parts`; its passes, and the further signals that a learner may ask for, a pass each."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from kit.arch.base import ArchLearner
from kit.augment.policy import Policy
from kit.errors import KitError
from kit.hyper.base import HyperLearner
from kit.methods import Stage
from kit.search import grads, ranks
from kit.search.grads import Batch, Gradient, Momentum
from kit.space.network import Child, Network

Batches = dict[str, Iterator[Batch]]
STATEFUL = ("net", "arch", "augment", "hyper", "sgd")


@dataclass
class Parts:
    """draws: the options of the stage's step. Raises KitError where two of them hold the same trainable tensor."""

    net: Network
    arch: ArchLearner
    augment: Policy
    hyper: HyperLearner
    sgd: Momentum
    draws: Any = None

    def __post_init__(self) -> None:
        owned = [id(tensor) for tensors in self.variables().values() for tensor in tensors]
        if len(set(owned)) < len(owned):
            raise KitError("a trainable tensor belongs to two of θ, α, τ and η: give each of them its own")

    def variables(self) -> dict[str, list[Tensor]]:
        learned = {"α": self.arch, "τ": self.augment, "η": self.hyper}
        return {"θ": list(self.net.parameters())} | {letter: part.variables() for letter, part in learned.items()}

    def state_dict(self) -> dict:
        chance = {"drop_path": self.net.generator.get_state(), "mixup": self.net.mixer.get_state()}
        return chance | {name: getattr(self, name).state_dict() for name in STATEFUL}

    def load_state_dict(self, state: dict) -> None:
        self.net.generator.set_state(state["drop_path"].cpu())
        self.net.mixer.set_state(state["mixup"].cpu())
        for name in STATEFUL:
            getattr(self, name).load_state_dict(state[name])
        for slot in self.arch.frozen.nonzero().flatten().tolist():
            self.net.freeze_slot(slot, self.arch.picks[slot], None)

    def take_over(self, before: Self, was: Stage, now: Stage) -> None:
        """Go on from a supernet's parts with its child alone: but for a restart with the same weights and momentum by
        name; with τ and η as the stage before learned them, where both stages are about them; α as its learner
        says."""
        if not now.restart:
            state, own = before.state_dict(), ("arch", "augment", "hyper")
            weights = {name: state["net"][name] for name in self.net.state_dict()}
            self.load_state_dict(state | {"net": weights} | {name: getattr(self, name).state_dict() for name in own})
        bare = lambda learner: getattr(learner, "inner", learner)
        bare(self.arch).inherit(bare(before.arch))
        for name in ("augment", "hyper"):
            if "default" not in (getattr(was, name), getattr(now, name)):
                bare(getattr(self, name)).load_state_dict(bare(getattr(before, name)).state_dict())


class Pass(NamedTuple):
    """Forward and backward. losses: per sample, detached; right: whether each prediction is; gradient: of the mean."""

    child: Child
    losses: Tensor
    right: Tensor
    gradient: Gradient


def training_pass(net: Network, x: Tensor, y: Tensor, child: Child) -> Pass:
    losses, predicted = net.losses(*mixed(x, y, net), child)
    return Pass(child, losses.detach(), predicted == y, grads.backward(losses.mean(), net, child))


def outer_gradient(net: Network, batch: Batch, child: Child) -> Gradient:
    """On a batch that is not trained on: BatchNorm's running statistics are left alone."""
    with net.frozen_statistics(child.picks):
        loss = net.losses(*batch, child)[0].mean()
    return grads.backward(loss, net, child)


def validation_gradient(net: Network, held_out: Batch, child: Child) -> Gradient:
    """Without drop-path, dropout and the auxiliary head, as what is deployed has none."""
    with net.plain():
        return outer_gradient(net, held_out, child)


def policy_rewards(parts: Parts, train: Batch, held_out: Callable, child: Child, lr: Tensor, draws=1) -> Callable:
    """DAAS eq. 13, as a function of a draw: ⟨∇L_val(θ'), ∇ℓ_k(θ)⟩ of each image k that it transforms, float [n]; of a
    policy for the whole batch their mean. It costs a pass, and at first those of θ'. held_out(): a validation batch.

    θ' = θ − lr ∇L_train (eq. 10) takes as many draws of its own: one's part in θ' would bias that one's reward."""
    (images, y), net, augment, child = train, parts.net, parts.augment, child.detached()
    transformed = lambda draw: (augment.apply(images, draw), y)

    @functools.cache
    def outer() -> Gradient:
        own = [transformed(augment.sample(len(y))) for _ in range(draws)]
        with grads.ahead(Gradient.mean([outer_gradient(net, batch, child) for batch in own]), lr):
            return validation_gradient(net, held_out(), child)

    return lambda draw: grads.directional(net, *transformed(draw), child, outer())


def on_request(parts: Parts, batches: Batches, augmented: Batch, child: Child) -> dict[str, Callable]:
    """The signals that cost a pass, as functions; augmented: the training batch."""
    net, augment, constant = parts.net, parts.augment, child.detached()

    def outer(source: str) -> Gradient:
        """g' = ∇_θ L(θ'; B') on a batch of this source: "val" as it is, "fresh" augmented like the training batch."""
        x, y = next(batches[source])
        if source == "val":
            return validation_gradient(net, (x, y), constant)
        return outer_gradient(net, (augment.apply(x, augment.sample(len(x))), y), constant)

    @functools.cache
    def reward() -> float:
        return accuracy(net, next(batches["val"]), child)

    def loss() -> Tensor:
        """The mean over this rank's augmented images, as a function of the weights alone."""
        with net.frozen_statistics(child.picks):
            return net.losses(*augmented, constant)[0].mean()

    return {"outer": outer, "reward": reward, "loss": loss}


def accuracy(net: Network, held_out: Batch, child: Child) -> float:
    """On a batch, in [0, 1], by its own BatchNorm statistics: shared weights have none. Without dropout, drop-path."""
    with torch.no_grad(), net.plain(), net.frozen_statistics(child.picks):
        _, predicted = net.losses(*held_out, child.detached())
    return ranks.total((predicted == held_out[1]).float().mean()).item() / ranks.count()


def regularize(net: Network, hyper: HyperLearner) -> None:
    """Set this step's dropout, drop-path and mixup, where the η learner decides them."""
    for name, value in hyper.draw().items():
        setattr(net, name, value)


def mixed(x: Tensor, y: Tensor, net: Network) -> Batch:
    """Mixup (Zhang et al. 2018), x' = λ x + (1 − λ) x_π with λ ~ Beta(a, a), a = net.mixup. Labels are mixed alike and
    become float [n, classes]. Without mixup images and labels are returned as they are."""
    if net.mixup < 1e-5:  # λ is 0 or 1 then, and no number that a computer has between them
        return x, y
    share, dtype = beta(net.mixup, net.mixer), net.mean.dtype
    order = ranks.own(torch.randperm(len(x) * ranks.count(), generator=net.mixer).to(x.device))
    blend = lambda own: torch.lerp(ranks.gather(own)[order].to(dtype), own.to(dtype), share)
    return blend(x), blend(F.one_hot(y, net.classes))


def beta(a: float, generator: torch.Generator) -> float:
    """A draw from Beta(a, a), a ≤ 1, by Jöhnk's method: numbers of a generator whose state a run can keep."""
    while True:
        u, v = (torch.rand(2, generator=generator, dtype=torch.float64) ** (1 / a)).tolist()
        if 0 < u + v <= 1:
            return u / (u + v)
