"""`joint`: DHA with a strength of augmentation that follows the training, from a known architecture.

DHA transforms every image by two operations of any magnitude: worth points where images are seen often, a price where
they are not. A reward of one step (DAAS's eq. 13) cannot tell: a transformed image nearly always teaches it less."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from kit.arch import SparseCoding
from kit.arch import register as register_arch
from kit.augment import Draw, PairSoftmax, register
from kit.methods import JOINT
from kit.methods import register as register_method

TRIES = 200  # of a node's A; for two of 35 candidates in seven dimensions a few do


@register("strength", title="Softmax over pairs, as strong as training bears", colour="#CC79A7")
class Strength(PairSoftmax):
    """`amount`, float [1], from 0 to 1: the share of the images that are transformed, and a tenth of their largest
    magnitude. It begins at `strength_start`: what a network has learned by heart, it keeps (Golatkar et al. 2019). It
    rises while the training images' classes have a mean probability above `strength_target` and falls, to its start at
    most, below it; as Karras et al. (2020) do it for discriminators. No image has to be held out."""

    class Options(PairSoftmax.Options):
        epochs: int = Field(ge=1, description="of the whole run: search and tuning together")
        strength_start: float | None = Field(None, ge=0, le=1, description="the least; None: epochs / 100, 1 at most")
        strength_target: float = Field(0.8, gt=0, lt=1, description="the training images' probability to be held")
        strength_reach: float = Field(4.0, gt=0, description="how often the strength can go from 0 to 1 in the run")

    def __init__(self, *at: Any, **options: Any):
        super().__init__(*at, **{"epochs": 100} | options)  # of a module alone nobody knows
        start, epochs = self.options.strength_start, self.options.epochs
        self.least = min(1.0, epochs / 100) if start is None else start
        self.amount = torch.full((1,), self.least, device=self.generator.device)

    def variables(self) -> list[Tensor]:
        return [self.tau, self.amount]

    def strength(self, n: int) -> tuple[Tensor, Tensor]:
        on = torch.rand(n, generator=self.generator, device=self.amount.device) < self.amount
        return on, (10 * self.amount).expand(n)

    def gradient(self, draw: Draw, *, losses: Tensor, **signals: Any) -> list[Tensor]:
        """losses: cross-entropies, so that exp(−loss) is the probability of the image's class."""
        excess = (-losses).exp().mean() - self.options.strength_target
        return [*super().gradient(draw, losses=losses, **signals), -excess.view(1)]

    @torch.no_grad()
    def move(self, gradient: list[Tensor]) -> None:
        super().move(gradient[:1])
        for excess in gradient[1:]:
            step = self.options.strength_reach / max(1, self.steps) / (1 - self.options.strength_target)
            self.amount.sub_(step * excess).clamp_(self.least, 1)

    def adopt(self, found: dict) -> None:
        super().adopt(found)
        self.amount.copy_(torch.tensor(found["amount"]))

    def snapshot(self) -> dict[str, Tensor]:
        """As `PairSoftmax`'s, and amount float [1]."""
        return super().snapshot() | {"amount": self.amount.cpu().clone()}

    def summary(self) -> dict[str, float]:
        return super().summary() | {"tau/strength": float(self.amount)}


@register_arch("sparse-known", title="Sparse coding from the usual architecture", brings={"arch_reach": 3.0})
class SparseKnown(SparseCoding):
    """Where `SparseCoding` begins at chance, this one begins at the space's usual architecture (DARTS V2 for cells): b
    is the sum of its columns of A, so that its operations have gates of 1. Where the LASSO finds other columns that add
    up to the same b, the node's A is drawn once more. A space without one begins at chance. The reach is short: from
    gates of 1, a long one forgets where it began."""

    def __init__(self, *given, **settings):
        super().__init__(*given, **settings)
        network = self.limits.network
        if network.usual is None:
            return
        known = tuple(tuple(sorted(picks)) for picks in network.picks_of(network.genotypes[network.usual]))
        index = torch.tensor(known, device=self.device).unsqueeze(1).expand(-1, self.A.shape[1], -1)
        chance = self.b.detach().clone()
        for _ in range(TRIES):
            self.b.data.copy_(chance + self.A.gather(2, index).sum(2))
            self.alpha = self.alpha_before = self.recovered()
            others = torch.tensor([one != other for one, other in zip(self.largest(self.alpha.abs()), known)])
            if not others.any():
                break
            self.A[others] = self.columns()[others]
        self.picks = self.strongest(self.alpha.abs())


# weight decay may double and halve. The rate stays: its gradient looks one step ahead and favours a small one, which
# cost a point on 200 digits (n = 9, development images)
ETA = {"hyper_reach": 2.0, "hyper_moves": "weight_decay"}
learners = {"arch": "sparse-known", "augment": "strength", "hyper": "learned"}
register_method("joint", "NAS + DA + HPO, joint, known start", stages=JOINT, **learners, values=ETA)
