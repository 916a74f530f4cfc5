"""η: learners of the learning rate and the weight decay (DHA eq. 3, 4; METHOD section 3).

A hyper-gradient learner differs from another only in where its outer gradient g' = ∇L(θ'; B') comes from.
"""

from __future__ import annotations

from typing import Callable, Mapping, NamedTuple

import torch
from torch import Tensor

from kit.grads import Gradient, Trace
from kit.learner import Learner


class Values(NamedTuple):
    """What one step uses: float 0-dim tensors on the device; lr includes the schedule."""

    lr: Tensor
    weight_decay: Tensor


class HyperLearner(Learner):
    """log lr and log weight decay, so that both stay positive; the learned rate multiplies the schedule."""

    def __init__(self, lr: float, weight_decay: float, device: torch.device | str = "cpu"):
        # weight decay 0 has no logarithm: it is then a constant and its hyper-gradient is not used
        self.log = torch.tensor([lr, max(weight_decay, 1e-12)], dtype=torch.float64, device=device).log()
        self.learns_decay = weight_decay > 0

    def variables(self) -> list[Tensor]:
        return []

    def sample(self, schedule: float = 1.0) -> Values:
        """schedule: the factor of the learning-rate schedule at this step, in (0, 1]."""
        lr, decay = self.log.detach().exp().float()
        return Values(lr * schedule, decay if self.learns_decay else decay * 0)

    def observe(self, trace: Trace | None, gradient: Gradient) -> None:
        """The step's own gradient before it is used, and the trace of the step before (None at the first): look-ahead's signal."""

    def summary(self) -> dict[str, float]:
        lr, decay = self.log.detach().exp().tolist()
        return {"eta/lr": lr, "eta/weight_decay": decay if self.learns_decay else 0.0}


class Fixed(HyperLearner):
    """η as configured."""


class HyperGradient(HyperLearner):
    """One-step hyper-gradient through SGD with momentum (eq. 3, 4), θ and v held constant; Adam on log η.

    The outer gradient g' comes from a batch of its own: `update` gets `outer`, which computes it at θ' on a batch from `source`.
    """

    source = "fresh"

    def __init__(self, lr: float, weight_decay: float, *, step: float, device: torch.device | str = "cpu"):
        super().__init__(lr, weight_decay, device)
        self.log.requires_grad_()
        self.adam = torch.optim.Adam([self.log], lr=step)

    def variables(self) -> list[Tensor]:
        return [self.log]

    def update(self, trace: Trace, *, outer: Callable[[str], Gradient], **_: object) -> None:
        gradient = outer(self.source)
        self._move(trace, gradient)

    def _move(self, trace: Trace, gradient: Gradient) -> None:
        by_lr, by_decay = trace.hyper_gradient(gradient.parameters, gradient.theta, gradient.flat)
        # ∂/∂log η = η ∂/∂η; with lr_t = exp(log lr) · schedule, ∂lr_t/∂log lr = lr_t
        grad = torch.stack([trace.lr * by_lr, trace.weight_decay * by_decay]).to(self.log.dtype)
        self.log.grad = grad
        self.adam.step()

    def state_dict(self) -> dict:
        return {"log": self.log.detach(), "adam": self.adam.state_dict()["state"]}

    def load_state_dict(self, state: dict) -> None:
        with torch.no_grad():
            self.log.copy_(state["log"])
        groups = self.adam.state_dict()["param_groups"]
        self.adam.load_state_dict({"state": {int(k): v for k, v in state["adam"].items()}, "param_groups": groups})


class Fresh(HyperGradient):
    """DHA: g' on another training batch, augmented like the step's own; costs a forward and a backward pass."""

    needs = frozenset({"fresh"})


class Validation(HyperGradient):
    """DiffAutoML: g' on a validation batch."""

    needs = frozenset({"val"})
    source = "val"


class LookAhead(HyperGradient):
    """g' is the next step's own training gradient: the hyper-gradient of a step is taken when the next one has its gradient.

    No extra pass: two scalar products. The next step's gradient is taken at θ', just what eq. 4 asks for, on the next batch (and child).
    """

    def observe(self, trace: Trace | None, gradient: Gradient) -> None:
        if trace is not None:
            self._move(trace, gradient)

    def update(self, trace: Trace, **_: object) -> None:
        """Nothing yet: this step's hyper-gradient is taken by the next one's `observe`."""


HYPER: Mapping[str, type[HyperLearner]] = {"fixed": Fixed, "lookahead": LookAhead, "fresh": Fresh, "validation": Validation}


def build(name: str, lr: float, weight_decay: float, *, step: float, device: torch.device | str = "cpu") -> HyperLearner:
    """An η learner by name. lr, weight_decay: starting values; step: Adam's rate on their logarithms."""
    kind = HYPER[name]
    return kind(lr, weight_decay, step=step, device=device) if issubclass(kind, HyperGradient) else kind(lr, weight_decay, device)
