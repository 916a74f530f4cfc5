"""A learned strength of augmentation, and `joint`, the method that has it: DHA's step with validation images.

The papers transform every image by two operations of any magnitude. Where images are few that helps, where training is
short it costs: so how many images are transformed, and how strongly, is learned from images that are held out."""

import math
from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from kit.augment import Draw, PairSoftmax, register
from kit.methods import Stage
from kit.methods import register as register_method

LEVELS = 10  # of the largest magnitude: 1 to 10


@register("strength", title="Softmax over pairs, with a learned strength", colour="#CC79A7")
class Strength(PairSoftmax):
    """`amount`: float [2], a and s. An image is transformed with probability sigmoid(a), by magnitudes up to a level ℓ
    of 1 to 10 that is drawn by exp(s ℓ / 10). Both climb the reward of DAAS's eq. 13: how far a step along the image's
    gradient lowers the validation loss, ⟨∇L_val(θ'), ∇ℓ_k(θ)⟩, each reward less the mean of the others'. A memorized
    image has no gradient left and earns nothing, an image made hard teaches, one made useless misleads."""

    needs = frozenset({"val"})

    class Options(PairSoftmax.Options):
        strength_start: float = Field(0.1, gt=0, lt=1, description="share of the images transformed at the start")
        strength_reach: float = Field(8.0, gt=0, description="how far the logits of the strength can move in the run")
        strength_every: int = Field(4, ge=1, description="steps between two looks at validation images")

    def __init__(self, *at: Any, **options: Any):
        super().__init__(*at, **options)
        device, start = self.generator.device, self.options.strength_start
        self.amount = torch.tensor([math.log(start / (1 - start)), 0.0], device=device, requires_grad=True)
        self.levels = torch.arange(1, LEVELS + 1, device=device) / LEVELS
        rate = self.options.strength_reach * self.options.strength_every / max(1, self.steps)
        self.adam = torch.optim.Adam([self.amount], lr=rate, betas=(0.9, 0.99))

    def variables(self) -> list[Tensor]:
        return [self.tau, self.amount]

    @torch.no_grad()
    def strength(self, n: int) -> tuple[Tensor, Tensor]:
        g, (a, s) = self.generator, self.amount
        on = torch.rand(n, generator=g, device=g.device) < a.sigmoid()
        chances = (s * self.levels).softmax(0).expand(n, -1)
        return on, torch.multinomial(chances, 1, generator=g).squeeze(1) + 1.0

    def gradient(self, draw: Draw, *, rewards: Callable[[], Tensor], **signals: Any) -> list[Tensor]:
        of_tau = super().gradient(draw, **signals)
        if self.passed % self.options.strength_every:
            return of_tau
        earned, (on, level), (a, s) = rewards().to(self.tau.dtype), draw.choices.unbind(1), self.amount
        earned = earned - (earned.sum() - earned) / max(1, len(earned) - 1)
        by_level = (s * self.levels).log_softmax(0)[level.long() - 1]
        chance = torch.where(on.bool(), logsigmoid(a) + by_level, logsigmoid(-a))
        return [*of_tau, *torch.autograd.grad(-(earned * chance).mean(), [self.amount])]

    @torch.no_grad()
    def move(self, gradient: list[Tensor]) -> None:
        super().move(gradient[:1])
        for of_amount in gradient[1:]:
            self.amount.grad = of_amount
            self.adam.step()

    def adopt(self, found: dict) -> None:
        super().adopt(found)
        with torch.no_grad():
            self.amount.copy_(torch.tensor(found["amount"]))

    @torch.no_grad()
    def snapshot(self) -> dict[str, Tensor]:
        """As `PairSoftmax`'s, and amount [2]."""
        return super().snapshot() | {"amount": self.amount.detach().cpu()}

    @torch.no_grad()
    def summary(self) -> dict[str, float]:
        a, s = self.amount
        level = float(((s * self.levels).softmax(0) * self.levels).sum()) * LEVELS
        return super().summary() | {"tau/applied": float(a.sigmoid()), "tau/level": level}


# the strength is learned while validation images are held out; then all images train with it
register_method(
    "joint",
    "NAS + DA + HPO, joint, with a learned strength",
    arch="sparse-coding",
    stages=(Stage("search", search=True), Stage("tuning", augment="derived")),
    augment="strength",
    hyper="learned",
)
