"""The contract of the η learners, and the one that does not learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from kit import registry
from kit.hyper.bases import Basis, read_bases
from kit.search.grads import Gradient, Trace
from kit.search.learner import Derived, Learner

HYPER = registry.Registry("hyper")
register = HYPER.register


@dataclass(frozen=True)
class Setting:
    """What a learner is built from: the starting values, the run's configuration with the learner's options, its random
    stream, and the steps until the weights start anew or the run ends."""

    lr: float
    weight_decay: float
    config: Any
    generator: torch.Generator = field(default_factory=torch.Generator)
    device: torch.device | str = "cpu"
    steps: int = 0


class RateOptions(registry.Options):
    hyper_lr: float | None = Field(
        None,
        gt=0,
        description="Adam on log η, or on the controller; None: so that hyper_reach is covered in half the run",
    )


class BasesOptions(registry.Options):
    hyper_space: str = Field(
        "weight_decay,mixup", description="what hyper='reinforce' and trials search: names, or name=value:value:…"
    )


class Values(NamedTuple):
    """What one step of the weights uses: lr (schedule included) and weight_decay, float 0-dim tensors on the device,
    and the optimizer.
    """

    lr: Tensor
    weight_decay: Tensor
    optimizer: str = "sgd"


class HyperLearner(Learner):
    """Starts from lr and weight_decay, kept as logarithms so that both stay positive; the learned rate multiplies the
    schedule.
    """

    #: whether each of its settings is tried in a whole stage of its own
    trials = False

    @classmethod
    def build(cls, at: Setting, **settings: Any) -> HyperLearner:
        """From a stage's setting; settings: of the name under which the class is registered."""
        return cls(at.lr, at.weight_decay, device=at.device, **settings)

    def __init__(self, lr: float, weight_decay: float, device: torch.device | str = "cpu"):
        # weight decay 0 has no logarithm: it is then a constant and its hyper-gradient is not used
        self.log = torch.tensor([lr, max(weight_decay, 1e-12)], dtype=torch.float64, device=device).log()
        self.learns_decay = weight_decay > 0

    def variables(self) -> list[Tensor]:
        return []

    def draw(self) -> dict[str, float]:
        """Before a step's forward pass: its mixup, dropout and drop_path, those that this learner decides; the others
        are as configured.
        """
        return {}

    def sample(self, schedule: float = 1.0) -> Values:
        """schedule: the factor of the learning-rate schedule at this step, in (0, 1]."""
        lr, decay = self.log.detach().exp().float()
        return Values(lr * schedule, decay if self.learns_decay else decay * 0)

    def derived_draw(self) -> dict[str, float]:
        """As `draw`, of what the search has found."""
        return self.draw()

    def observe(self, trace: Trace | None, gradient: Gradient) -> None:
        """The step's own gradient before it is used, and the trace of the step before (None at the first): look-ahead's
        signal.
        """

    def tell(self, score: float | None) -> None:
        """A stage has ended with this validation accuracy (None: nothing was held out)."""

    def found(self) -> dict[str, float | str]:
        """The hyper-parameters as they stand, by name."""
        lr, decay = self.log.detach().exp().tolist()
        return {"lr": lr, "weight_decay": decay if self.learns_decay else 0.0}

    def summary(self) -> dict[str, float]:
        return {f"eta/{name}": value for name, value in self.found().items() if not isinstance(value, str)}


@register("fixed", title="Fixed hyper-parameters")
class Fixed(HyperLearner):
    """η as configured."""


class Searched(HyperLearner):
    """A learner over named hyper-parameters: from the values chosen by name to a step's. Names that it does not choose
    stay as configured.
    """

    bases: Mapping[str, Basis]
    device: torch.device

    @classmethod
    def check(cls, config: Any) -> None:
        read_bases(config.hyper_space)

    def _regular(self, chosen: dict[str, float | str]) -> dict[str, float]:
        return {name: chosen[name] for name in ("mixup", "dropout", "drop_path") if name in chosen}

    def _values(self, chosen: dict[str, float | str], schedule: float) -> Values:
        known = super().found() | chosen
        lr, decay = (
            torch.tensor(known[name], dtype=torch.float32, device=self.device) for name in ("lr", "weight_decay")
        )
        return Values(lr * schedule, decay, known.get("optimizer", "sgd"))


class DerivedHyper(Derived):
    """Training with the hyper-parameters that an earlier stage found."""

    def draw(self) -> dict[str, float]:
        return self.inner.derived_draw()

    def tell(self, score: float | None) -> None:
        pass
