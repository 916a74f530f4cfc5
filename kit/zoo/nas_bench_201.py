"""NAS-Bench-201's space (Dong & Yang 2020): a small cell, repeated, whose 15,625 architectures have all been trained,
so that what a search finds can be looked up (`kit.zoo.tables`). A genotype is {edge: operation}."""

import torch
from torch import Tensor, nn

from kit.space import Child, Network, Picks, Size, Slot, register
from kit.space.layers import ConvNorm, batch_norm, norms
from kit.space.network import checked_reductions, mixture

OPERATIONS = {
    "none": lambda c: nn.Threshold(float("inf"), 0.0),  # zeros
    "skip_connect": lambda c: nn.Identity(),
    "nor_conv_1x1": lambda c: nn.Sequential(nn.ReLU(), ConvNorm(c, c, 1)),
    "nor_conv_3x3": lambda c: nn.Sequential(nn.ReLU(), ConvNorm(c, c, 3)),
    "avg_pool_3x3": lambda c: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
}
EDGES = ("0→1", "0→2", "1→2", "0→3", "1→3", "2→3")  # node 0 is the cell's input, node 3 its output
RESNET = dict(zip(EDGES, ("nor_conv_3x3", "none", "nor_conv_3x3", "skip_connect", "none", "none")))
BRINGS = {"channels": {"laptop": 8, "server": 16, "paper": 16}, "cells": {"laptop": 3, "server": 15, "paper": 15}}


class Cell(nn.ModuleList):
    """scale: of each edge's output; a search that fixes the edge leaves its operation's weight here."""

    def __init__(self, slots: tuple[Slot, ...], c: int):
        super().__init__(nn.ModuleDict({name: OPERATIONS[name](c) for name, _ in slot.candidates}) for slot in slots)
        self.register_buffer("scale", torch.ones(len(slots)))

    def chosen(self, picks: Picks) -> list[list[nn.Module]]:
        return [[list(edge.values())[c] for c in mine] for edge, mine in zip(self, picks)]

    def forward(self, x: Tensor, child: Child) -> Tensor:
        nodes: dict[str, Tensor] = {"0": x}
        for slot, (edge, operations) in enumerate(zip(EDGES, self.chosen(child.picks))):
            source, target = edge.split("→")
            y = mixture([op(nodes[source]) for op in operations], child, slot) * self.scale[slot]
            nodes[target] = nodes[target] + y if target in nodes else y
        return nodes["3"]


class Halving(nn.Module):  # the residual block between stages
    def __init__(self, c: int):
        super().__init__()
        self.layers = nn.Sequential(nn.ReLU(), ConvNorm(c, 2 * c, 3, 2), nn.ReLU(), ConvNorm(2 * c, 2 * c, 3))
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(c, 2 * c, 1, bias=False))

    def forward(self, x: Tensor, child: Child) -> Tensor:
        return self.shortcut(x) + self.layers(x)

    def chosen(self, picks: Picks) -> list[list[nn.Module]]:
        return [[self]]


@register("nas-bench-201", title="NAS-Bench-201", brings=BRINGS)
class Bench201(Network):
    """Stages of equal cells with halvings between them. The table's have channels=16, cells=15 and 32×32 pixels."""

    absorbs_gates = repeats = True
    genotypes, usual = {"resnet": RESNET}, "resnet"

    def __init__(self, classes: int, image: Size, *, channels: int, cells: int, reductions=2, genotype=None):
        super().__init__(classes, image)
        self.offer(tuple(Slot(edge, tuple((name, 0) for name in OPERATIONS)) for edge in EDGES), genotype)
        reductions = checked_reductions(image, 0, reductions, cells - 1)
        halved_at = [(i + 1) * cells // (reductions + 1) for i in range(reductions)]
        self.stem, self.layers, c = ConvNorm(image[0], channels, 3), nn.ModuleList(), channels
        for i in range(cells):
            self.layers.extend([Halving(c)] if i in halved_at else [])
            c *= 2 if i in halved_at else 1
            self.layers.append(Cell(self.slots, c))
            for norm in norms(self.layers[-1]):
                norm.requires_grad_(genotype is not None)  # rests until its operation is fixed, as in the cell space
        self.last = nn.Sequential(batch_norm(c), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(c, classes)

    def scores(self, x: Tensor, child: Child) -> tuple[Tensor, None]:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x, child)
        return self.classifier(self.drop_features(self.last(x))), None

    def modules_of(self, picks: Picks) -> list[nn.Module]:
        chosen = [module for layer in self.layers for edge in layer.chosen(picks) for module in edge]
        return [self.stem, *chosen, self.last, self.classifier]

    @torch.no_grad()
    def freeze_slot(self, slot: int, picks: tuple[int, ...], gate: Tensor | None) -> None:
        for cell in (layer for layer in self.layers if isinstance(layer, Cell)):
            for norm in norms(list(cell[slot].values())[picks[0]]):
                norm.requires_grad_(True)
            cell.scale[slot] *= 1 if gate is None else gate[0]

    def genotype(self, picks: Picks) -> dict[str, str]:
        return {slot.name: slot.candidates[c][0] for slot, (c,) in zip(self.slots, picks)}

    @classmethod
    def graph(cls, genotype: dict[str, str]) -> dict[str, list[tuple[str, str, str]]]:
        return {"cell": [(*edge.split("→"), operation) for edge, operation in genotype.items()]}
