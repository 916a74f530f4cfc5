"""DHA's and DiffAutoML's learned distribution over pairs of operations (eq. 2; METHOD section 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from kit.augment.ops import OPS
from kit.augment.policy import Basics, Draw, LearnedPolicy, register

STEPS = {"tau_lr": {"paper": 1e-5, "server": 1e-2, "laptop": 3e-2}}
SMALL_OPS = ("ShearX", "ShearY", "TranslateX", "TranslateY")  # DiffAutoML's Table 3


@register("pair-softmax-4", title="Softmax over pairs of four operations", brings=STEPS, ops=SMALL_OPS)
@register("pair-softmax", title="Softmax over ordered pairs", colour="#0072B2", brings=STEPS)
class PairSoftmax(LearnedPolicy):
    """τ is a K×K matrix of logits over ordered pairs of operations, magnitudes are uniform in [0, 10].

    Every sample draws its own pair by Gumbel-max and its own two magnitudes. `update` takes a gradient step on
    L_DA(τ) = −Σ_k p_k(τ) L_k (eq. 2): SGD with momentum and weight decay. ops: names of operations; K = len(ops).
    """

    def __init__(
        self,
        basics: Basics,
        generator: torch.Generator,
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        ops: tuple[str, ...] = OPS,
    ):
        super().__init__(basics, generator, ops)
        self.tau = torch.zeros(len(ops), len(ops), device=generator.device)
        self.velocity = torch.zeros_like(self.tau)
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay

    def variables(self) -> list[Tensor]:
        return [self.tau]

    def probabilities(self) -> Tensor:
        return self.tau.flatten().softmax(0).view_as(self.tau)

    def draw(self, n: int) -> Draw:
        k, g, device = len(self.ops), self.generator, self.generator.device
        uniform = torch.rand(n, k * k, generator=g, device=device).clamp_(min=1e-20)
        index = torch.sub(self.tau.flatten(), uniform.log_().neg_().log_(), out=uniform).argmax(dim=1)  # Gumbel-max
        ops = self.places[torch.stack([index // k, index % k], dim=1)]
        magnitude = torch.rand(n, 2, generator=g, device=device) * 10
        return self.complete(ops, magnitude, index=index)

    def gradient(self, draw: Draw, *, losses: Tensor, **_: object) -> list[Tensor]:
        """∂L_DA/∂τ [K, K], closed form: with c_T = Σ of the losses that drew T, it is −p ∘ (c − ⟨c, p⟩)."""
        self.count(draw)
        p = self.probabilities().flatten()
        c = torch.zeros_like(p).scatter_add_(0, draw.index, losses.to(p.dtype))
        return [(-p * (c - torch.dot(c, p))).view_as(self.tau)]

    def move(self, gradient: list[Tensor]) -> None:
        for step in gradient:
            self.velocity.mul_(self.momentum).add_(step + self.weight_decay * self.tau)
            self.tau.sub_(self.lr * self.velocity)

    def state_dict(self) -> dict:
        return {**super().state_dict(), "tau": self.tau, "velocity": self.velocity, "counts": self.counts}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        for name in ("tau", "velocity", "counts"):
            getattr(self, name).copy_(state[name])

    def adopt(self, found: dict) -> None:
        """Take over a policy as `Run.policy` gives it."""
        self.tau.copy_(torch.tensor(found["probabilities"]).clamp(min=1e-30).log())
