"""η by one-step hyper-gradients (DHA eq. 3, 4, DiffAutoML; METHOD section 3), by different g' = ∇L(θ'; B')."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from kit.hyper.base import HyperLearner, RateOptions, register
from kit.search import ranks
from kit.search.grads import Gradient, Trace
from kit.search.learner import Adam

PAPER = {"hyper_lr": {"paper": 1e-3}}


class HyperGradient(HyperLearner):
    """One-step hyper-gradient through SGD with momentum (eq. 3, 4), θ and v held constant; Adam on log η. It favours
    small learning rates (short-horizon bias; Wu et al. 2018), so `hyper_reach` bounds how far η follows."""

    class Options(RateOptions):
        hyper_reach: float = Field(10.0, gt=1, description="most that lr, weight_decay may grow or shrink, times")
        hyper_moves: Literal["both", "lr", "weight_decay"] = Field("both", description="what hyper-gradients move")
        hyper_every: int = Field(1, ge=1, le=10, description="one hyper-gradient in so many steps; most cost a pass")

    optimizer: type = Adam
    kept = ("passed",)
    passed = 0

    def __init__(self, *start: Any, **settings: Any):
        super().__init__(*start, **settings)
        reach = math.log(self.options.hyper_reach)
        self.low, self.high = self.log - reach, self.log + reach
        lr = self.options.hyper_lr or 2 * reach * self.options.hyper_every / max(1, self.steps)
        self.adam = self.optimizer([self.log.requires_grad_()], lr=lr)
        moves = [self.options.hyper_moves in ("both", name) for name in ("lr", "weight_decay")]
        self.moves = torch.tensor(moves, device=self.log.device)

    def due(self) -> bool:
        """Whether this step, one more, is one of those that give a hyper-gradient."""
        self.passed += 1
        return self.passed % self.options.hyper_every == 0

    def by_log(self, trace: Trace, outer: Gradient) -> list[Tensor]:
        """∂L(θ')/∂log η."""
        by_lr, by_decay = trace.hyper_gradient(outer)
        # ∂/∂log η = η ∂/∂η; with lr_t = exp(log lr) · schedule, ∂lr_t/∂log lr = lr_t
        return [torch.stack([trace.lr * by_lr, trace.weight_decay * by_decay]).to(self.log.dtype) * self.moves]

    @torch.no_grad()
    def move(self, gradient: list[Tensor]) -> None:
        super().move(gradient)
        self.log.clamp_(self.low, self.high)


@register("fresh", title="Hyper-gradient on a fresh training batch", brings=PAPER)
class Fresh(HyperGradient):
    """DHA: g' on another training batch, augmented like the step's own; costs a forward and a backward pass."""

    needs = frozenset({"fresh"})  # the one batch that g' is of

    def estimate(self, trace: Trace, *, outer: Callable[[str], Gradient], **_: object) -> list[Tensor]:
        return self.by_log(trace, outer(*self.needs)) if self.due() else []


@register("validation", title="Hyper-gradient on a validation batch", brings=PAPER)
class Validation(Fresh):
    """DiffAutoML: g' on a validation batch."""

    needs = frozenset({"val"})


@register("lookahead", title="Hyper-gradient of the next step's own gradient")
class LookAhead(HyperGradient):
    """g' is the next step's own training gradient, which is taken at θ' as eq. 4 asks, on the next batch (and child):
    two scalar products and no extra pass. A step's hyper-gradient waits until the next step has its gradient."""

    def observe(self, trace: Trace | None, gradient: Gradient) -> None:
        """trace: of the step before, None at the first; gradient: the step's own, before it is used."""
        if trace is not None and self.due():
            self.move(ranks.mean(self.by_log(trace, gradient)))
