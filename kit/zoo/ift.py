"""Weight decay by implicit differentiation (Lorraine, Vicol & Duvenaud 2020), one of AutoHAS's comparisons (Fig. 2)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kit.hyper import Validation, register
from kit.methods import TRAIN
from kit.methods import register as register_method
from kit.search import ranks
from kit.search.grads import Gradient, Trace


@register("ift", title="Implicit differentiation of the weight decay")
class Ift(Validation):
    """Where the weights have settled under L_train + wd/2 ‖θ‖², ∂L_val/∂wd = −⟨(H + wd I)⁻¹ ∇L_val, θ⟩, H = ∇²L_train.
    The learning rate has no such gradient and stays as it is."""

    def estimate(
        self, trace: Trace, *, outer: Callable[[str], Gradient], loss: Callable[[], Tensor], **_: object
    ) -> list[Tensor]:
        """loss(): L_train on the training batch."""
        if not (self.learns_decay and self.due()):
            return []
        gradient = outer(*self.needs)
        hessian = lambda v: curvature(loss(), gradient.parameters, v)
        by_decay = implicit_gradient(gradient, trace.weight_decay, trace.lr, hessian)
        return [torch.stack([torch.zeros_like(by_decay), trace.weight_decay * by_decay]).to(self.log.dtype)]


def curvature(loss: Tensor, weights: list[nn.Parameter], v: list[Tensor]) -> list[Tensor]:
    """Hessian-vector product of the loss, by double backward: the ranks' mean."""
    first = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
    along = sum((g * d).sum() for g, d in zip(first, v))
    return ranks.mean([h.detach() for h in torch.autograd.grad(along, weights, materialize_grads=True)])


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


TITLE = "Weight decay by implicit differentiation on MobileNetV2"
register_method("ift", TITLE, arch="given", stages=TRAIN, hyper="ift", space="mobile")
