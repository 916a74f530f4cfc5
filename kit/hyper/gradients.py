"""η by gradients: DHA's and DiffAutoML's one-step hyper-gradients (eq. 3, 4; METHOD section 3), HGD and IFT.

They differ in where the outer gradient g' = ∇L(θ'; B') comes from, and in what they make of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from kit.hyper.base import HyperLearner, RateOptions, Setting, register
from kit.search import ranks
from kit.search.grads import Gradient, Trace
from kit.search.learner import adam_state, load_adam_state

NEUMANN_TERMS = 5


class ReachOptions(RateOptions):
    hyper_reach: float = Field(
        4.0,
        gt=1,
        description="how many times up or down a hyper-gradient may take the learning rate and the weight decay",
    )


class HyperGradient(HyperLearner):
    """One-step hyper-gradient through SGD with momentum (eq. 3, 4), θ and v held constant; Adam on log η.

    step: of the optimizer on log η. reach: how many times up or down η may go from its start. One-step hyper-gradients
    favour small learning rates (short-horizon bias; Wu et al. 2018), and the bound limits how far η follows them.
    """

    Options = ReachOptions
    optimizer: type[torch.optim.Optimizer] = torch.optim.Adam
    #: the batch on which the outer gradient is computed: "fresh" (another training batch) or "val"
    source = "fresh"

    @classmethod
    def build(cls, at: Setting, **settings: Any) -> HyperLearner:
        reach, step = at.config.hyper_reach, at.config.hyper_lr
        if step is None:
            step = 2 * math.log(reach) / max(1, at.steps)
        return super().build(at, step=step, reach=reach, **settings)

    def __init__(self, *start: float, step: float, reach: float = math.inf, **settings: Any):
        super().__init__(*start, **settings)
        self.low, self.high = self.log - math.log(reach), self.log + math.log(reach)
        self.adam = self.optimizer([self.log.requires_grad_()], lr=step)

    def variables(self) -> list[Tensor]:
        return [self.log]

    def update(self, trace: Trace, *, outer: Callable[[str], Gradient], **_: object) -> None:
        """outer(source): the gradient at θ' on a batch of that source."""
        self.learn(trace, outer(self.source))

    def learn(self, trace: Trace, outer: Gradient) -> None:
        by_lr, by_decay = trace.hyper_gradient(outer)
        # ∂/∂log η = η ∂/∂η; with lr_t = exp(log lr) · schedule, ∂lr_t/∂log lr = lr_t
        self.descend(trace.lr * by_lr, trace.weight_decay * by_decay)

    def descend(self, by_log_lr: Tensor, by_log_decay: Tensor) -> None:
        """A step of the optimizer along ∂L/∂log η, then back to the bound where it was crossed."""
        (self.log.grad,) = ranks.mean([torch.stack([by_log_lr, by_log_decay]).to(self.log.dtype)])
        self.adam.step()
        with torch.no_grad():
            self.log.copy_(torch.minimum(torch.maximum(self.log, self.low), self.high))

    def state_dict(self) -> dict:
        return {"log": self.log.detach(), "adam": adam_state(self.adam)}

    def load_state_dict(self, state: dict) -> None:
        with torch.no_grad():
            self.log.copy_(state["log"])
        load_adam_state(self.adam, state["adam"])


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
        if trace is not None:
            self.learn(trace, gradient)

    def update(self, trace: Trace, **_: object) -> None:
        """The next step's `observe` does it."""


@register("hgd", title="Hypergradient descent of the learning rate", brings={"hyper_lr": 0.01})
class Hgd(LookAhead):
    """Hypergradient descent on the learning rate alone (Baydin et al. 2018), in its multiplicative form.

    −∂L(θ')/∂lr = ⟨g', v'⟩ is divided by both norms, so that `step` is a relative change of the rate: lr ← lr · exp(step
    · cos(g', v')).
    """

    optimizer = torch.optim.SGD

    @torch.no_grad()
    def observe(self, trace: Trace | None, gradient: Gradient) -> None:
        if trace is None:
            return
        velocity = {id(p): v for p, v in zip(trace.parameters, trace.momentum)}
        pairs = [(g, velocity[id(p)]) for p, g in zip(gradient.parameters, gradient.theta) if id(p) in velocity]
        along, size_g, size_v = (
            sum((a * b).sum() for a, b in terms)
            for terms in (pairs, [(g, g) for g, _ in pairs], [(v, v) for _, v in pairs])
        )
        cosine = along / (size_g.sqrt() * size_v.sqrt()).clamp(min=1e-30)
        self.descend(-cosine, torch.zeros_like(cosine))


@register("ift", title="Implicit differentiation of the weight decay")
class Ift(Validation):
    """Weight decay by implicit differentiation (Lorraine et al. 2020): where the weights have settled under L_train +
    wd/2 ‖θ‖²,

    ∂L_val/∂wd = −⟨(H + wd I)⁻¹ ∇L_val, θ⟩, H = ∇²L_train. The inverse is a Neumann series with the step's learning
    rate. The learning rate has no such gradient and stays as it is.
    """

    def update(
        self,
        trace: Trace,
        *,
        outer: Callable[[str], Gradient],
        curvature: Callable[[list[nn.Parameter], list[Tensor]], list[Tensor]],
        **_: object,
    ) -> None:
        """curvature(parameters, v): H v on the training batch."""
        if not self.learns_decay:
            return
        gradient = outer(self.source)
        by_decay = implicit_gradient(
            gradient, trace.weight_decay, trace.lr, lambda v: curvature(gradient.parameters, v)
        )
        self.descend(torch.zeros_like(by_decay), trace.weight_decay * by_decay)


def implicit_gradient(
    outer: Gradient,
    weight_decay: Tensor | float,
    step: Tensor | float,
    hessian: Callable[[list[Tensor]], list[Tensor]],
    terms: int = NEUMANN_TERMS,
) -> Tensor:
    """−⟨p, θ⟩ with p = step · Σ_{j ≤ terms} (I − step (H + wd I))ʲ ∇L_val, which tends to (H + wd I)⁻¹ ∇L_val for step
    < 2/‖H + wd I‖."""
    v = list(outer.theta)
    p = list(v)
    for _ in range(terms):
        product = hessian(v)
        v = [x - step * (h + weight_decay * x) for x, h in zip(v, product)]
        p = [a + b for a, b in zip(p, v)]
    return -step * sum((a * theta.detach()).sum() for a, theta in zip(p, outer.parameters))
