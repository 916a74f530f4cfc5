"""PC-DARTS (Xu et al. 2020: 2.57% test error on CIFAR-10): DARTS on a quarter of the channels, with edge weights."""

from functools import partial
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from kit import arch, space
from kit.errors import KitError
from kit.methods import TWO_LEVELS, register
from kit.space.cell import CellNetwork, Operation
from kit.space.layers import last_norm
from kit.space.network import Child, Picks, everything

K, BRINGS = 4, {"arch_reach": {"paper": 2.9}, "arch_rests": 0.3}  # one channel in K takes part in the search


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


@arch.register("pc-darts", title="DARTS, edges weighed (PC-DARTS)", brings=BRINGS)
class PcDarts(arch.Gumbel):
    """All candidates run, weighed by the softmax over their edge's operations times that of β over the slot's edges."""

    draws, retrain, limited = False, True, False
    share = 1.0  # of the search stage that has passed; all, where nobody tells

    class Options(arch.Gumbel.Options):
        arch_rests: float = Field(0.0, ge=0, lt=1, description="share of a search stage in which weights learn alone")

    @classmethod
    def check(cls, config: Any) -> None:
        super().check(config)
        if config.arch_rests and any(s.search and n < 2 for s, n in zip(config.stages, config.stage_epochs)):
            given = f"search_epochs={config.search_epochs}, in part of which (arch_rests) α rests"
            raise KitError(f"{given}: set {2 * (len(config.stages) - 1)} or more, two for each stage, or arch_rests=0")

    def anneal(self, share: float) -> None:
        self.share = share

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
        rows = [row[: len(chosen)].to(self.device).float() for row, chosen in zip(memory, picks)]
        return Child(picks, tuple(row.detach().requires_grad_() for row in rows), memory=memory)

    def value(self, child: Child, *, gates: list[Tensor | None], **_: object) -> Tensor:
        return (self.by_candidate(child, gates) * child.memory).sum()

    def estimate(self, child: Child, **signals: Any) -> list[Tensor]:
        return super().estimate(child, **signals) if self.share >= self.options.arch_rests else []


register("pc-darts", "PC-DARTS, retrained", arch="pc-darts", stages=TWO_LEVELS, space="partial-cell")
