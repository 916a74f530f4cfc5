"""DAAS's learned policy: operations, application probabilities and magnitudes (eq. 3, 4, 11–13; METHOD section 1)."""

from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from kit.augment.ops import DAAS_OPS, OPS
from kit.augment.policy import Draw, LearnedPolicy, register, share
from kit.search import ranks
from kit.search.learner import Adam

RATES = {"paper": 1e-3, "server": 5e-3, "laptop": 2e-2}


@register("policy-gradient", title="Policy gradient", colour="#009E73", brings={"tau_lr": RATES})
class PolicyGradient(LearnedPolicy):
    """Logits float of K operations: π [2, K] of the first and the second; p [K] of an operation's being applied; δ [K,
    bins] of its magnitude, 0 to 10.

    The reward of a draw is ⟨∇L_val(θ'), ∇ℓ_k(θ)⟩: training gradients along the validation gradient are reinforced. With
    `policies` a draw is for the whole batch, as in the paper; else every image has its own, the rewards of all come
    from one forward-mode derivative, and each is compared with the mean of the others', which adds no bias."""

    needs = frozenset({"val"})
    usual_ops = DAAS_OPS

    class Options(LearnedPolicy.Options):
        policies: int = Field(0, ge=0, le=100, description="two levels: policies per architecture; 0: one per image")

    def __init__(self, *at: Any, bins: int = 10, **options: Any):
        super().__init__(*at, **options)
        k, self.shared, self.bins = len(self.ops), self.options.policies > 0, bins
        zeros = lambda *shape: torch.zeros(shape, device=self.generator.device, requires_grad=True)
        self.pi, self.apply_logit, self.delta = leaves = [zeros(2, k), zeros(k), zeros(k, bins)]
        self.adam = Adam(leaves, lr=self.options.tau_lr or 1e-2, betas=(0.5, 0.999))

    def probabilities(self) -> Tensor:
        first, second = self.pi.softmax(1)
        return first[:, None] * second

    def derived(self, n: int) -> Draw:
        """π and p as learned, every operation at its likeliest magnitude; one draw per image."""
        return share(self.draw(n * ranks.count(), derived=True))

    @torch.no_grad()
    def draw(self, n: int, derived: bool = False) -> Draw:
        g, device, k = self.generator, self.generator.device, len(self.ops)
        draws = 1 if self.shared and not derived else n
        place = (self.pi + _gumbel((draws, 2, k), g)).argmax(2)
        applied = torch.rand(draws, 2, generator=g, device=device) < self.apply_logit.sigmoid()[place]
        scores = self.delta[place] + (0.0 if derived else _gumbel((draws, 2, self.bins), g))
        place, applied, bins = (x.expand(n, 2) for x in (place, applied, scores.argmax(2)))
        ops, magnitude = torch.where(applied, self.places[place], OPS.index("Identity")), bins * (10 / (self.bins - 1))
        choices = torch.stack([place, applied.long(), bins], dim=2)
        return self.complete(ops, magnitude, index=place[:, 0] * k + place[:, 1], choices=choices)

    def log_probability(self, draw: Draw) -> Tensor:
        """log p(Γ) of each image's own transformation Γ, two operations in order (eq. 4): float [n], differentiable."""
        place, applied, bins = draw.choices.unbind(2)  # int64 [n, 2] each
        which = torch.stack([self.pi[k].log_softmax(0)[place[:, k]] for k in range(2)], dim=1)
        on = logsigmoid(self.apply_logit)[place] + self.delta.log_softmax(1)[place, bins]
        off = logsigmoid(-self.apply_logit)[place]
        return (which + torch.where(applied.bool(), on, off)).sum(1)

    def gradient(self, draw: Draw, *, rewards: Callable[[], Tensor], **_: object) -> list[Tensor]:
        """∇_γ L_val up to the step length ξ (eq. 13): −mean_k r_k ∇ log p(Γ_k). A shared draw's reward is ⟨∇L_val,
        ∇L_train⟩, the mean over its images (the paper's form)."""
        self.count(draw)
        r = rewards().to(self.pi.dtype)
        if not self.shared and len(r) > 1:
            r = r - (r.sum() - r) / (len(r) - 1)
        return list(torch.autograd.grad(-(r * self.log_probability(draw)).mean(), self.variables()))

    @torch.no_grad()
    def adopt(self, found: dict) -> None:
        """Take over a policy as `Run.policy` gives it."""
        names = ("probabilities", "apply", "magnitude")
        pairs, applied, magnitude = (torch.tensor(found[name]).clamp(min=1e-30) for name in names)
        self.pi.copy_(torch.stack([pairs.sum(1), pairs.sum(0)]).log())
        self.apply_logit.copy_(applied.clamp(max=1 - 1e-7).logit())
        self.delta.copy_(magnitude.log())

    @torch.no_grad()
    def snapshot(self) -> dict[str, Tensor]:
        """As `LearnedPolicy`'s, and per operation apply [K] and magnitude [K, bins]: probabilities."""
        more = {"apply": self.apply_logit.sigmoid().cpu(), "magnitude": self.delta.softmax(1).cpu()}
        return super().snapshot() | more


def _gumbel(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    uniform = torch.rand(shape, generator=generator, device=generator.device).clamp_(min=1e-20)
    return -(-uniform.log_()).log_()
