"""What a stage works with: the network, its learners and the optimizer."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from kit.arch.base import ArchLearner
from kit.augment.policy import Policy
from kit.errors import KitError
from kit.hyper.base import HyperLearner
from kit.methods import Stage
from kit.search.grads import Momentum
from kit.space.network import Network

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
        owner: dict[int, str] = {}
        for letter, tensors in self.variables().items():
            for tensor in tensors:
                if (other := owner.setdefault(id(tensor), letter)) != letter:
                    shape = list(tensor.shape)
                    raise KitError(f"a trainable tensor of shape {shape} belongs to both {other} and {letter}, not one")

    def variables(self) -> dict[str, list[Tensor]]:
        """All that is trained, by its letter."""
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
        for slot, frozen in enumerate(getattr(self.arch, "frozen", torch.empty(0)).tolist()):
            if frozen:
                self.net.freeze_slot(slot, self.arch.picks[slot], None)

    def take_over(self, before: Self) -> None:
        """Go on from a supernet's parts with its child alone, which has the same weights and momentum by name."""
        state = before.state_dict()
        weights = {name: state["net"][name] for name in self.net.state_dict()}
        self.load_state_dict(state | {"net": weights, "arch": self.arch.state_dict()})

    def inherit(self, before: Self, was: Stage, now: Stage) -> None:
        """New weights, with τ and η as the stage before learned them, where both stages are about them."""
        for name in ("augment", "hyper"):
            if "default" not in (getattr(was, name), getattr(now, name)):
                learner, learned = getattr(self, name), getattr(before, name)
                getattr(learner, "inner", learner).load_state_dict(getattr(learned, "inner", learned).state_dict())
