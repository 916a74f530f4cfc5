"""The contract of the η learners, and the one that does not learn."""

from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Generator, Tensor

from kit import registry
from kit.search.learner import Derived, Learner

HYPER = registry.Registry("hyper")
register = HYPER.register


class RateOptions(registry.Options):
    hyper_lr: float | None = Field(None, gt=0, description="of η; None: so that half the run covers hyper_reach")


def regular(values: dict[str, Any]) -> dict[str, Any]:
    """The regularisers among them: attributes of a network that its forward pass reads."""
    by_block = tuple(value for name, value in values.items() if name.startswith("drop_path/"))
    values = values | ({"drop_path": by_block} if by_block else {})
    return {name: values[name] for name in ("mixup", "dropout", "drop_path") if name in values}


class Values(NamedTuple):
    """What one step of the weights uses; float 0-dim tensors on the device, lr by the schedule."""

    lr: Tensor
    weight_decay: Tensor
    optimizer: str = "sgd"


class HyperLearner(Learner):
    """lr and weight_decay are kept as logarithms, so that both stay positive; the schedule multiplies the rate. steps:
    until the weights start anew or the run ends. blocks: of the network with a drop-path each; 0: they share one."""

    Options: type[registry.Options] = registry.Options
    trials = False  #: whether each of its settings is tried in a whole stage of its own

    def __init__(self, lr: float, weight_decay: float, generator=None, device="cpu", steps=1, blocks=0, **options: Any):
        # weight decay 0 has no logarithm: it stays 0, and its hyper-gradient is not used
        self.log = torch.tensor([lr, max(weight_decay, 1e-12)], dtype=torch.float64, device=device).log()
        self.learns_decay = weight_decay > 0
        self.generator = generator or Generator()
        self.steps, self.blocks, self.options = steps, blocks, self.Options(**options)

    def draw(self) -> dict[str, float]:
        return {}  # before a step's forward pass: its mixup, dropout and drop_path, those that this learner decides

    def sample(self, schedule: float = 1.0) -> Values:
        """schedule: the factor of the learning-rate schedule at this step, in (0, 1]."""
        lr, decay = self.log.detach().exp().float()
        return Values(lr * schedule, decay if self.learns_decay else decay * 0)

    def record_score(self, score: float | None, last: bool) -> bool:
        """An epoch ended with this validation accuracy, and if `last` the stage. Returns whether that is to end now."""
        return last

    def result(self) -> dict[str, float | str]:
        lr, decay = self.log.detach().exp().tolist()
        return {"lr": lr, "weight_decay": decay if self.learns_decay else 0.0}

    def summary(self) -> dict[str, float]:
        return {f"eta/{name}": value for name, value in self.result().items() if not isinstance(value, str)}


@register("fixed", title="Fixed hyper-parameters")
class Fixed(HyperLearner):
    """η as configured."""


class DerivedHyper(Derived):
    """Training with the hyper-parameters that an earlier stage found."""

    def draw(self) -> dict[str, float]:
        return regular(self.inner.result())
