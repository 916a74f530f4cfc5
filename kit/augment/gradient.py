"""DAAS's learned policy: operations, application probabilities and magnitudes, moved by policy gradient (eq. 3, 4,
11–13; METHOD 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from kit.augment.ops import ALL_OPS, DAAS_OPS
from kit.augment.policy import Basics, Draw, Policy

BINS = 10  # magnitudes 0, 10/9, …, 10
IDENTITY = ALL_OPS.index("Identity")


class PolicyGradient(Policy):
    """π: float [2, K] logits of the first and the second operation; p: [K] logits of the probability that an operation
    is applied; δ:
    [K, 10] logits of its magnitude bin. Adam on all of them.

    The reward of a draw is ⟨∇L_val(θ'), ∇ℓ_k(θ)⟩: a transformation whose training gradient points along the validation
    gradient is
    reinforced. shared: one draw for the whole batch, as in the paper; else every image draws its own, and the rewards
    of all of them
    come from one forward-mode derivative. baseline: compare each reward with the mean of the others (leave-one-out: no
    bias); it needs
    draws of one's own.
    """

    needs = frozenset({"val"})

    def __init__(
        self,
        basics: Basics,
        generator: torch.Generator,
        *,
        lr: float,
        shared: bool = False,
        baseline: bool = True,
        betas: tuple[float, float] = (0.5, 0.999),
        ops: tuple[str, ...] = DAAS_OPS,
    ):
        super().__init__(basics, generator)
        device, k = generator.device, len(ops)
        self.ops, self.shared, self.baseline = ops, shared, baseline and not shared
        self.places = torch.tensor([ALL_OPS.index(name) for name in ops], device=device)
        self.pi, self.apply_logit, self.delta = (
            torch.zeros(shape, device=device, requires_grad=True) for shape in ((2, k), (k,), (k, BINS))
        )
        self.counts = torch.zeros(k * k, device=device)
        self.adam = torch.optim.Adam(self.variables(), lr=lr, betas=betas)

    def variables(self) -> list[Tensor]:
        return [self.pi, self.apply_logit, self.delta]

    # ---- drawing ---------------------------------------------------------------------------------

    def sample(self, n: int) -> Draw:
        return self._draw(n, best_magnitude=False)

    def derived(self, n: int) -> Draw:
        """For training with what was found: π and p as learned, every operation at its likeliest magnitude; one draw
        per image.
        """
        return self._draw(n, best_magnitude=True)

    @torch.no_grad()
    def _draw(self, n: int, best_magnitude: bool) -> Draw:
        g, device, k = self.generator, self.generator.device, len(self.ops)
        draws = 1 if self.shared and not best_magnitude else n
        place = (self.pi + _gumbel((draws, 2, k), g)).argmax(2)
        applied = torch.rand(draws, 2, generator=g, device=device) < self.apply_logit.sigmoid()[place]
        scores = self.delta[place] + (0.0 if best_magnitude else _gumbel((draws, 2, BINS), g))
        bins = scores.argmax(2)
        place, applied, bins = (x.expand(n, 2) for x in (place, applied, bins))
        drawn = self._fill(
            torch.where(applied, self.places[place], IDENTITY), bins * (10 / (BINS - 1)), place[:, 0] * k + place[:, 1]
        )
        return Draw(**{**vars(drawn), "choices": torch.stack([place, applied.long(), bins], dim=2)})

    def log_probability(self, draw: Draw) -> Tensor:
        """log p(Γ) of each image's own transformation (eq. 4): float [n], differentiable. K = 2 operations, in
        order.
        """
        place, applied, bins = draw.choices.unbind(2)
        which = torch.stack([self.pi[k].log_softmax(0)[place[:, k]] for k in range(2)], dim=1)
        on = torch.nn.functional.logsigmoid(self.apply_logit)[place] + self.delta.log_softmax(1)[place, bins]
        off = torch.nn.functional.logsigmoid(-self.apply_logit)[place]
        return (which + torch.where(applied.bool(), on, off)).sum(1)

    # ---- learning --------------------------------------------------------------------------------

    def estimate(self, draw: Draw, *, rewards: Callable[[], Tensor], **_: object) -> list[Tensor]:
        """rewards(): ⟨∇L_val(θ'), ∇ℓ_k(θ)⟩ per image [n]. Returns ∇_γ L_val up to the step length ξ (eq. 13): −mean_k
        r_k ∇ log p(Γ_k).

        A shared draw's reward is the mean over its images, that is ⟨∇L_val, ∇L_train⟩ (the paper's form).
        """
        self.counts.scatter_add_(0, draw.index, torch.ones_like(draw.index, dtype=self.counts.dtype))
        r = rewards().to(self.pi.dtype)
        n = len(r)
        if self.baseline and n > 1:
            r = r - (r.sum() - r) / (n - 1)
        value = -(r * self.log_probability(draw)).mean()
        return list(torch.autograd.grad(value, self.variables()))

    def move(self, gradient: list[Tensor]) -> None:
        if not gradient:
            return
        for variable, grad in zip(self.variables(), gradient):
            variable.grad = grad
        self.adam.step()

    def state_dict(self) -> dict:
        return {
            **super().state_dict(),
            "variables": [v.detach() for v in self.variables()],
            "counts": self.counts,
            "adam": self.adam.state_dict()["state"],
        }

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        with torch.no_grad():
            for variable, value in zip(self.variables(), state["variables"]):
                variable.copy_(value)
            self.counts.copy_(state["counts"])
        groups = self.adam.state_dict()["param_groups"]
        self.adam.load_state_dict({"state": {int(k): v for k, v in state["adam"].items()}, "param_groups": groups})

    # ---- for the history -------------------------------------------------------------------------

    @torch.no_grad()
    def pairs(self) -> Tensor:
        """float [K, K]: the probability of each ordered pair of operations."""
        first, second = self.pi.softmax(1)
        return first[:, None] * second

    @torch.no_grad()
    def adopt(self, found: dict) -> None:
        """Take over a policy as `Run.policy` gives it."""
        pairs, applied, magnitude = (
            torch.tensor(found[name]).clamp(min=1e-30) for name in ("probabilities", "apply", "magnitude")
        )
        self.pi.copy_(torch.stack([pairs.sum(1), pairs.sum(0)]).log())
        self.apply_logit.copy_(applied.clamp(max=1 - 1e-7).logit())
        self.delta.copy_(magnitude.log())

    @torch.no_grad()
    def snapshot(self) -> dict[str, Tensor]:
        """probabilities and counts [K, K] as for `PairSoftmax`; apply [K], magnitude [K, 10]: probabilities per
        operation.
        """
        counts = self.counts.clone().view(len(self.ops), -1)
        self.counts.zero_()
        return {
            "probabilities": self.pairs().cpu(),
            "counts": counts.cpu(),
            "apply": self.apply_logit.sigmoid().cpu(),
            "magnitude": self.delta.softmax(1).cpu(),
        }

    @torch.no_grad()
    def summary(self) -> dict[str, float]:
        p = self.pairs().double().flatten()
        entropy = float(-(p * p.clamp(min=1e-300).log()).sum())
        applied = self.apply_logit.sigmoid()
        return {
            "tau/entropy": entropy,
            "tau/kl_from_uniform": math.log(len(p)) - entropy,
            "tau/largest": float(p.max()),
            "tau/applied": float((self.pi.softmax(1).mean(0) * applied).sum()),
        }


def _gumbel(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    uniform = torch.rand(shape, generator=generator, device=generator.device).clamp_(min=1e-20)
    return -(-uniform.log_()).log_()
