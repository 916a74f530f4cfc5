"""Weight decay by implicit differentiation (Lorraine, Vicol & Duvenaud 2020), one of AutoHAS's comparisons (Fig. 2)."""

from collections.abc import Callable

import torch
from torch import Tensor

from kit.hyper import Validation, register
from kit.methods import TRAIN
from kit.methods import register as register_method
from kit.search.grads import Gradient, Trace


@register("ift", title="Implicit differentiation of the weight decay")
class Ift(Validation):
    """Where the weights have settled under L_train + wd/2 ‖θ‖², ∂L_val/∂wd = −⟨(H + wd I)⁻¹ ∇L_val, θ⟩, H = ∇²L_train.
    The learning rate has no such gradient and stays as it is."""

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


register_method(
    "ift",
    "Weight decay by implicit differentiation on MobileNetV2",
    arch="given",
    stages=TRAIN,
    hyper="ift",
    space="mobile",
)
