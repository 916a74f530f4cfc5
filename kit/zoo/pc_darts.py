"""PC-DARTS (Xu et al. 2020: 2.57% test error on CIFAR-10): DARTS on a quarter of the channels, with edge weights."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from kit import arch, space
from kit.errors import KitError
from kit.methods import RETRAIN, Stage, register
from kit.space.cell import CellNetwork, Operation
from kit.space.layers import last_norm
from kit.space.network import Child, Picks, everything

K = 4  # one channel in K takes part in the search


class Partial(Operation):
    """An operation on the first C / K channels of x [N, C, H, W]; the others pass by (of stride 2: their 2×2 maxima),
    and a shuffle in K groups mixes them. The gate, as the weight of the last BatchNorm, weighs what passes, too."""

    def __init__(self, make: Any, channels: int, stride: int, trained: bool):
        inner = make(channels // K, stride, trained)
        super().__init__(*inner, reads_relu=False)  # what passes by is not rectified
        self.rectifies, self.stride, self.split = inner.reads_relu, stride, channels // K

    def forward(self, x: Tensor) -> Tensor:
        part, rest = x[:, : self.split], x[:, self.split :]
        y, gate = super().forward(part.relu() if self.rectifies else part), last_norm(self).weight[0]
        rest = torch.max_pool2d(rest, 2, ceil_mode=True) if self.stride == 2 else rest
        both = torch.cat((y, rest * gate), dim=1)
        return both.unflatten(1, (K, -1)).transpose(1, 2).flatten(1, 2)


@space.register("partial-cell", title="DARTS cells, searched on a quarter of their channels")
class PartialCells(CellNetwork):
    """The cell space; while it searches, with `Partial` operations. What is found has all channels."""

    def __init__(self, classes, image, *, channels, cells, reductions=2, auxiliary=0.0, genotype=None, searches=False):
        if searches:
            self.operations = {name: partial(Partial, make) for name, make in CellNetwork.operations.items()}
        size = {"channels": channels, "cells": cells, "reductions": reductions, "auxiliary": auxiliary}
        super().__init__(classes, image, **size, genotype=genotype)

    @classmethod
    def check(cls, config: Any) -> None:
        super().check(config)
        c, searches = config.search_channels, any(stage.search for stage in config.stages)
        if searches and (c % K or not config.searches_apart):
            given = f"space 'partial-cell' with method {config.method!r} and search_channels={c}"
            raise KitError(f"{given}: use one that trains its child anew ('pc-darts'), and set a multiple of {K}")


@arch.register("pc-darts", title="DARTS, edges weighed (PC-DARTS)", brings={"arch_reach": {"paper": 2.9}})
class PcDarts(arch.Gumbel):
    """All candidates run, weighed by the softmax over their edge's operations times that of β over the slot's edges.
    Both rest in a stage's warm-up."""

    draws, retrain, limited, waits = False, True, False, True

    def weights(self) -> Tensor:  # float64 [slots, edges, operations]
        return self.softmax(self.to_edges(self.logits)) * self.edge_scores().softmax(1).unsqueeze(2)

    @property
    def alpha(self) -> Tensor:
        return self.to_candidates(self.weights().detach())

    def edge_strength(self) -> Tensor:
        return self.weights().detach().max(2).values

    def draw(self) -> tuple[Picks, Tensor]:
        return everything(self.slots), self.to_candidates(self.weights())

    def child(self, picks: Picks, memory: Tensor) -> Child:
        rows = [row[list(chosen)].to(self.device).float() for row, chosen in zip(memory, picks)]
        return Child(picks, tuple(row.detach().requires_grad_() for row in rows), memory=memory)

    def value(self, child: Child, *, gates: list[Tensor | None], **_: object) -> Tensor:
        return (self.by_candidate(child, gates) * child.memory).sum()


STAGES = (Stage("search", search=True, step="bi-level", warm_up=0.3), RETRAIN)  # α rests for 15 of 50 epochs
register("pc-darts", "PC-DARTS, retrained", arch="pc-darts", stages=STAGES, space="partial-cell")
