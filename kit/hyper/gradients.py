"""η by gradients: DHA's and DiffAutoML's one-step hyper-gradients (eq. 3, 4; METHOD section 3), HGD and IFT.

They differ in where the outer gradient g' = ∇L(θ'; B') comes from, and in what they make of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from kit.hyper.base import HyperLearner, RateOptions, register
from kit.search import ranks
from kit.search.grads import Gradient, Trace
from kit.search.learner import ByAdam


class HyperGradient(ByAdam, HyperLearner):
    """One-step hyper-gradient through SGD with momentum (eq. 3, 4), θ and v held constant; Adam on log η.

    One-step hyper-gradients favour small learning rates (short-horizon bias; Wu et al. 2018), and `hyper_reach` bounds
    how far η follows them.
    """

    class Options(RateOptions):
        hyper_reach: float = Field(4.0, gt=1, description="the most that lr and weight_decay may grow or shrink, times")

    optimizer: type[torch.optim.Optimizer] = torch.optim.Adam
    source = "fresh"  #: of the batch for the outer gradient: another training batch, or "val"

    def __init__(self, *start: Any, **settings: Any):
        super().__init__(*start, **settings)
        reach = math.log(self.options.hyper_reach)
        self.low, self.high = self.log - reach, self.log + reach
        lr = self.options.hyper_lr or 2 * reach / max(1, self.steps)
        self.adam = self.optimizer([self.log.requires_grad_()], lr=lr)

    def estimate(self, trace: Trace, *, outer: Callable[[str], Gradient], **_: object) -> list[Tensor]:
        """outer(source): the gradient at θ' on a batch of that source."""
        return self.by_log(trace, outer(self.source))

    def by_log(self, trace: Trace, outer: Gradient) -> list[Tensor]:
        """∂L(θ')/∂log η."""
        by_lr, by_decay = trace.hyper_gradient(outer)
        # ∂/∂log η = η ∂/∂η; with lr_t = exp(log lr) · schedule, ∂lr_t/∂log lr = lr_t
        return [torch.stack([trace.lr * by_lr, trace.weight_decay * by_decay]).to(self.log.dtype)]

    @torch.no_grad()
    def move(self, gradient: list[Tensor]) -> None:
        super().move(gradient)
        self.log.copy_(torch.minimum(torch.maximum(self.log, self.low), self.high))


@register("fresh", title="Hyper-gradient on a fresh training batch")
class Fresh(HyperGradient):
    """DHA: g' on another training batch, augmented like the step's own; costs a forward and a backward pass."""

    needs = frozenset({"fresh"})


@register("validation", title="Hyper-gradient on a validation batch")
class Validation(HyperGradient):
    """DiffAutoML: g' on a validation batch."""

    needs = frozenset({"val"})
    source = "val"


@register("lookahead", title="Hyper-gradient of the next step's own gradient")
class LookAhead(HyperGradient):
    """g' is the next step's own training gradient, which is taken at θ' as eq. 4 asks, on the next batch (and child):
    two scalar products and no extra pass. A step's hyper-gradient waits until the next step has its gradient."""

    def observe(self, trace: Trace | None, gradient: Gradient) -> None:
        """trace: of the step before, None at the first; gradient: the step's own, before it is used."""
        if trace is not None:
            self.move(ranks.mean(self.by_log(trace, gradient)))

    def estimate(self, trace: Trace, **_: object) -> list[Tensor]:
        return []


@register("hgd", title="Hypergradient descent of the learning rate", brings={"hyper_lr": 0.01})
class Hgd(LookAhead):
    """Hypergradient descent on the learning rate alone (Baydin et al. 2018), in its multiplicative form.

    −∂L(θ')/∂lr = ⟨g', v'⟩ is divided by both norms, so that hyper_lr is a relative change of the rate:
    lr ← lr · exp(hyper_lr · cos(g', v')).
    """

    optimizer = torch.optim.SGD

    @torch.no_grad()
    def by_log(self, trace: Trace, outer: Gradient) -> list[Tensor]:
        velocity = {id(p): v for p, v in zip(trace.parameters, trace.momentum)}
        pairs = [(g, velocity[id(p)]) for p, g in zip(outer.parameters, outer.theta) if id(p) in velocity]
        product = lambda terms: sum((a * b).sum() for a, b in terms)
        norms = product((g, g) for g, _ in pairs).sqrt() * product((v, v) for _, v in pairs).sqrt()
        cosine = product(pairs) / norms.clamp(min=1e-30)
        return [torch.stack([-cosine, torch.zeros_like(cosine)]).to(self.log.dtype)]


@register("ift", title="Implicit differentiation of the weight decay")
class Ift(Validation):
    """Weight decay by implicit differentiation (Lorraine et al. 2020): where the weights have settled under L_train +
    wd/2 ‖θ‖², ∂L_val/∂wd = −⟨(H + wd I)⁻¹ ∇L_val, θ⟩, H = ∇²L_train. The learning rate has no such gradient and stays
    as it is."""

    def estimate(
        self, trace: Trace, *, outer: Callable[[str], Gradient], curvature: Callable[..., list[Tensor]], **_: object
    ) -> list[Tensor]:
        """curvature(parameters, v): H v on the training batch."""
        if not self.learns_decay:
            return []
        gradient = outer(self.source)
        hessian = lambda v: curvature(gradient.parameters, v)
        by_decay = implicit_gradient(gradient, trace.weight_decay, trace.lr, hessian)
        return [torch.stack([torch.zeros_like(by_decay), trace.weight_decay * by_decay]).to(self.log.dtype)]


def implicit_gradient(
    outer: Gradient, weight_decay: Tensor, step: Tensor, hessian: Callable[..., list[Tensor]], terms: int = 5
) -> Tensor:
    """−⟨p, θ⟩ with p = step · Σ_{j ≤ terms} (I − step (H + wd I))ʲ ∇L_val, a Neumann series that tends to (H + wd I)⁻¹
    ∇L_val for step < 2/‖H + wd I‖."""
    v = p = outer.theta
    for _ in range(terms):
        v = [x - step * (h + weight_decay * x) for x, h in zip(v, hessian(v))]
        p = [a + b for a, b in zip(p, v)]
    return -step * sum((a * theta.detach()).sum() for a, theta in zip(p, outer.parameters))
