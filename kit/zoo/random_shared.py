"""Random search with weight sharing (Li & Talwalkar 2019: 2.85 ± 0.08% test error on CIFAR-10 with DARTS's cells):
every step trains another random child, and the best of many random children by these weights is found."""

from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from kit import registry
from kit.arch import random_picks, register
from kit.arch.base import Searcher
from kit.methods import RETRAIN, Stage
from kit.methods import register as register_method
from kit.space import Child, Picks


@register("random-shared", title="Best of random children", brings={"candidates": {"paper": 1000, "server": 200}})
class RandomShared(Searcher):
    """The paper scores 1,000 children on one batch, and the ten best of them on all validation images; here all images
    score every child. `alpha` becomes the share of each candidate in the ten best children."""

    needs, retrain = frozenset({"val"}), True
    kept = (*Searcher.kept, "alpha", "picks")

    class Options(registry.Options):
        candidates: int = Field(40, ge=1, le=100_000, description="children scored when the search stage ends")

    def __init__(self, *given: Any, **settings: Any):
        super().__init__(*given, **settings)
        self.alpha = self.valid / self.valid.sum(1, keepdim=True).double()
        self.picks = self.draw()

    def draw(self) -> Picks:
        return random_picks(self.slots, self.generator, self.limits)

    def sample(self) -> Child:
        return Child(self.picks if self.finished else self.draw())

    def distributions(self) -> Tensor:
        return self.alpha / self.alpha.sum(1, keepdim=True)

    def choose(self, score: Callable[[Picks], float]) -> None:
        drawn = dict.fromkeys(self.draw() for _ in range(self.options.candidates))
        best = sorted(drawn, key=score, reverse=True)[:10]  # of equals the first
        takes = [torch.zeros_like(self.alpha).scatter_(1, torch.tensor(picks), 1.0) for picks in best]
        self.picks, self.alpha = best[0], torch.stack(takes).mean(0)


STAGES = (Stage("search", search=True), RETRAIN)
register_method("random-shared", "Random search with weight sharing, retrained", arch="random-shared", stages=STAGES)
