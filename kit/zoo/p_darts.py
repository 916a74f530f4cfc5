"""P-DARTS (Chen et al. 2019: 2.50% test error on CIFAR-10; 97.13% in DHA's Table 1): DARTS in three stages, each on new
weights, deeper than the one before and with fewer operations on every edge."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kit.arch import Edges, register
from kit.methods import RETRAIN, Stage
from kit.methods import register as register_method
from kit.space import Child, Picks

DROPS = (3, 2)  # operations that every edge loses after the first and the second stage; two stay at least
SKIPS = 2  # that a normal cell has at most
DROPOUT = (0.0, 0.4, 0.7)  # of the skips at the start of each stage; it falls to 0 along the stage
BRINGS = {"arch_reach": {"paper": 3.9}, "search_cells": {"paper": 5, "server": 5, "laptop": 3}}


@register("p-darts", title="Progressive DARTS (P-DARTS)", brings=BRINGS)
class PDarts(Edges):
    """DARTS's mixture of the operations that are `alive`. Dropout cuts skips off, each by a gate that is 0 for a whole
    batch (the paper: for single values), and the derived normal cell loses its weakest skips until `SKIPS` are left.
    The logits begin anew in each stage, and rest in its warm-up."""

    retrain, limited, waits = True, False, True
    kept = (*Edges.kept, "alive", "stage")
    share = 1.0  # of the search stage that has passed; all, where nobody tells

    def __init__(self, *given: Any, **settings: Any):
        super().__init__(*given, **settings)
        self.stage, self.alive, self.skips = 0, self.valid.clone(), torch.zeros_like(self.valid)
        for row, slot in zip(self.skips, self.slots):
            row[: len(slot.candidates)] = torch.tensor([name == "skip_connect" for name, _ in slot.candidates])

    def inherit(self, before: Any) -> None:
        """Drop every edge's weakest operations by what the stage before has learned."""
        if isinstance(before, PDarts):
            self.stage = before.stage + 1
            chance = before.operations()
            left = (chance > 0).sum(2) - DROPS[min(before.stage, 1)]
            rank = chance.argsort(dim=2, descending=True, stable=True).argsort(2)
            self.alive = self.to_candidates((rank < left.clamp(min=2).unsqueeze(2)).double()) > 0

    def anneal(self, share: float) -> None:
        self.share = share

    def operations(self) -> Tensor:
        return self.weights().detach()

    def weights(self) -> Tensor:  # float64 [slots, edges, operations]; 0 for those that were dropped
        return self.softmax(self.to_edges(self.logits.masked_fill(~self.alive, -torch.inf)))

    def strength(self) -> Tensor:
        chance, normal = self.operations(), [not slot.name.startswith("reduce") for slot in self.slots]
        for _ in range(1 + int(self.skips.sum())):
            edge, best = chance.max(2, keepdim=True)
            best = best == torch.arange(chance.shape[2])
            strength = self.to_candidates(torch.where(best, 1.0 + edge, chance * edge))
            taken = [(float(strength[s, c]), s, c) for s, row in enumerate(self.largest(strength)) for c in row]
            skips = [one for one in taken if normal[one[1]] and self.skips[one[1:]]]
            if len(skips) > SKIPS:
                _, slot, weakest = min(skips)
                chance[slot][self.members[slot] == weakest] = 0.0
        return strength

    def draw(self) -> tuple[Picks, Tensor]:
        picks = tuple(tuple(row.nonzero().flatten().tolist()) for row in self.alive)
        weights, p = self.to_candidates(self.weights()), DROPOUT[min(self.stage, 2)] * (1 - self.share)
        kept = torch.rand(self.valid.shape, generator=self.generator) >= p
        return picks, torch.where(self.skips, weights * kept / (1 - p), weights)

    def child(self, picks: Picks, memory: Tensor) -> Child:
        rows = [row[list(chosen)].to(self.device).float() for row, chosen in zip(memory, picks)]
        return Child(picks, tuple(row.detach().requires_grad_() for row in rows), memory=memory)

    def value(self, child: Child, *, gates: list[Tensor | None], **_: object) -> Tensor:
        return (self.by_candidate(child, gates) * child.memory).sum()


SEARCH = Stage("search-1", search=True, step="bi-level", warm_up=0.4)  # 10 of its 25 epochs
DEEPER = (replace(SEARCH, name=f"search-{i}", restart=True, depth=depth) for i, depth in ((2, 11 / 5), (3, 17 / 5)))
STAGES, ONE_CHILD = (SEARCH, *DEEPER, RETRAIN), {"children": 1, "arch_samples": 1}
register_method("p-darts", "P-DARTS: in three stages, retrained", arch="p-darts", stages=STAGES, values=ONE_CHILD)
