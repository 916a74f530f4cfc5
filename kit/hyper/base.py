"""The contract of the η learners, and the one that does not learn."""

from __future__ import annotations

from abc import abstractmethod
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

REGULAR = ("mixup", "dropout", "drop_path")  # what the network's forward pass reads


@dataclass(frozen=True)
class Setting:
    """What a learner is built from: the starting values, the run's configuration, the learner's own random stream, and
    the steps until the weights start anew or the run ends."""

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
    and the optimizer."""

    lr: Tensor
    weight_decay: Tensor
    optimizer: str = "sgd"


class HyperLearner(Learner):
    """lr and weight_decay are kept as logarithms, so that both stay positive; the schedule multiplies the rate."""

    #: whether each of its settings is tried in a whole stage of its own
    trials = False

    @classmethod
    def build(cls, at: Setting, **settings: Any) -> HyperLearner:
        """From a stage's setting; settings: those registered with the class's name."""
        return cls(at.lr, at.weight_decay, device=at.device, **settings)

    def __init__(self, lr: float, weight_decay: float, device: torch.device | str = "cpu"):
        # weight decay 0 has no logarithm: it stays 0, and its hyper-gradient is not used
        self.log = torch.tensor([lr, max(weight_decay, 1e-12)], dtype=torch.float64, device=device).log()
        self.learns_decay = weight_decay > 0

    def variables(self) -> list[Tensor]:
        return []

    def draw(self) -> dict[str, float]:
        """Before a step's forward pass: its mixup, dropout and drop_path, those that this learner decides."""
        return {}

    def sample(self, schedule: float = 1.0) -> Values:
        """schedule: the factor of the learning-rate schedule at this step, in (0, 1]."""
        lr, decay = self.log.detach().exp().float()
        return Values(lr * schedule, decay if self.learns_decay else decay * 0)

    def derived_draw(self) -> dict[str, float]:
        """As `draw`, of the search's result."""
        return self.draw()

    def observe(self, trace: Trace | None, gradient: Gradient) -> None:
        """The step's own gradient before it is used, and the trace of the step before (None at the first)."""

    def record_score(self, score: float | None) -> None:
        """A stage has ended with this validation accuracy (None: nothing was held out)."""

    def result(self) -> dict[str, float | str]:
        """The current hyper-parameters, by name."""
        lr, decay = self.log.detach().exp().tolist()
        return {"lr": lr, "weight_decay": decay if self.learns_decay else 0.0}

    def summary(self) -> dict[str, float]:
        return {f"eta/{name}": value for name, value in self.result().items() if not isinstance(value, str)}


@register("fixed", title="Fixed hyper-parameters")
class Fixed(HyperLearner):
    """η as configured."""


class Searched(HyperLearner):
    """Chooses the hyper-parameters that `bases` name; all others stay as configured."""

    @classmethod
    def check(cls, config: Any) -> None:
        read_bases(config.hyper_space)

    @classmethod
    def build(cls, at: Setting, **settings: Any) -> Searched:
        bases = read_bases(at.config.hyper_space)
        return cls(at.lr, at.weight_decay, bases, at.generator, device=at.device, **settings)

    def __init__(
        self,
        lr: float,
        weight_decay: float,
        bases: Mapping[str, Basis],
        generator: torch.Generator,
        device: torch.device | str = "cpu",
    ):
        super().__init__(lr, weight_decay, device)
        self.bases, self.generator, self.device = dict(bases), generator, torch.device(device)

    @abstractmethod
    def current(self) -> dict[str, float | str]:
        """What this step uses, by name."""

    @abstractmethod
    def best(self) -> dict[str, float | str]:
        """The search's result so far, by name."""

    def draw(self) -> dict[str, float]:
        return {name: value for name, value in self.current().items() if name in REGULAR}

    def derived_draw(self) -> dict[str, float]:
        return {name: value for name, value in self.best().items() if name in REGULAR}

    def sample(self, schedule: float = 1.0) -> Values:
        return self._values(self.current(), schedule)

    def derived(self, schedule: float = 1.0) -> Values:
        return self._values(self.best(), schedule)

    def result(self) -> dict[str, float | str]:
        return super().result() | self.best()

    def _values(self, chosen: dict[str, float | str], schedule: float) -> Values:
        values = super().result() | chosen
        lr, decay = (
            torch.tensor(values[name], dtype=torch.float32, device=self.device) for name in ("lr", "weight_decay")
        )
        return Values(lr * schedule, decay, values.get("optimizer", "sgd"))


class DerivedHyper(Derived):
    """Training with the hyper-parameters that an earlier stage found."""

    def draw(self) -> dict[str, float]:
        return self.inner.derived_draw()

    def record_score(self, score: float | None) -> None:
        pass
