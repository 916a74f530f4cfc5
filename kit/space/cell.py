"""The cell space of DARTS with DHA's seven operations, as one supernet of which only the sampled child runs (METHOD
section 2a).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kit.errors import KitError
from kit.space.cost import measure, total
from kit.space.layers import batch_norm, dense_gradient
from kit.space.network import Child, Cost, DropPath, Network, Picks, Slot, check_halvings
from kit.space.operations import CELL_OPS, ConvNorm, FactorizedReduce, build_operation, gated, last_norm

NODES = 4
INPUTS = 2
Genotype = dict[str, list[list[tuple[str, int]]]]

# The cells that second-order DARTS found on CIFAR-10 (Liu et al. 2019, Fig. 4 and 5): the fixed architecture of `plain`
# and `da+hpo`.
DARTS_V2: Genotype = {
    "normal": [
        [("sep_conv_3x3", 0), ("sep_conv_3x3", 1)],
        [("sep_conv_3x3", 0), ("sep_conv_3x3", 1)],
        [("sep_conv_3x3", 1), ("skip_connect", 0)],
        [("skip_connect", 0), ("dil_conv_3x3", 2)],
    ],
    "reduce": [
        [("max_pool_3x3", 0), ("max_pool_3x3", 1)],
        [("skip_connect", 2), ("max_pool_3x3", 1)],
        [("max_pool_3x3", 0), ("skip_connect", 2)],
        [("skip_connect", 2), ("max_pool_3x3", 1)],
    ],
}


def all_candidates(node: int) -> tuple[tuple[str, int], ...]:
    """(operation, input edge) of a node's candidates; candidate index = 7 · edge + operation."""
    return tuple((op, edge) for edge in range(INPUTS + node) for op in CELL_OPS)


def cell_slots() -> tuple[Slot, ...]:
    return tuple(
        Slot(f"{kind}/{node}", all_candidates(node), 2) for kind in ("normal", "reduce") for node in range(NODES)
    )


def reduction_positions(cells: int, reductions: int) -> list[int]:
    """Cells of stride 2: at 1/3 and 2/3 of the depth for the usual two (DARTS)."""
    return [(i + 1) * cells // (reductions + 1) for i in range(reductions)]


class Cell(nn.Module):
    def __init__(
        self, kind: str, c_before: int, c_last: int, c: int, halved: bool, slots: tuple[Slot, ...], trained: bool
    ):
        super().__init__()
        self.stride = 2 if kind == "reduce" else 1
        self.first_slot = 0 if kind == "normal" else NODES
        self.slots = slots[self.first_slot : self.first_slot + NODES]
        self.before = FactorizedReduce(c_before, c) if halved else ConvNorm(c_before, c)
        self.last = ConvNorm(c_last, c)
        self.ops = nn.ModuleDict()
        for node, slot in enumerate(self.slots):
            for op, edge in slot.candidates:
                stride = self.stride if edge < INPUTS else 1
                self.ops[f"{node}-{edge}-{op}"] = build_operation(op, c, stride, trained)

    def operation(self, node: int, candidate: int) -> tuple[nn.Module, str, int]:
        op, edge = self.slots[node].candidates[candidate]
        return self.ops[f"{node}-{edge}-{op}"], op, edge

    def picked(self, picks: Picks) -> list[nn.Module]:
        return [
            self.operation(node, candidate)[0] for node in range(NODES) for candidate in picks[self.first_slot + node]
        ]

    def forward(
        self, before: Tensor, last: Tensor, picks: Picks, gates: list[tuple[Tensor, ...] | None], drop: DropPath
    ) -> Tensor:
        """before, last: the two cells' outputs, rectified."""
        states = [self.before(before), self.last(last)]
        rectified: dict[int, Tensor] = {}
        for node in range(NODES):
            slot = self.first_slot + node
            gate = gates[slot]
            output = None
            for k, candidate in enumerate(picks[slot]):
                operation, name, edge = self.operation(node, candidate)
                if operation.reads_relu and edge not in rectified:
                    rectified[edge] = F.relu(states[edge])
                x = rectified[edge] if operation.reads_relu else states[edge]
                y = operation(x) if gate is None else gated(operation, x, gate[k])
                if name != "skip_connect":
                    y = drop(y)
                output = y if output is None else output + y
            states.append(dense_gradient(output))
        return torch.cat(states[INPUTS:], dim=1)


class AuxiliaryHead(nn.Sequential):
    """DARTS's second classifier at 2/3 of the depth; pooled adaptively so that small images have one too."""

    def __init__(self, channels: int, classes: int):
        super().__init__(
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(768, classes),
        )


def _stem(kind: str, image_channels: int, c: int) -> tuple[nn.ModuleList, int, bool]:
    """Stem modules (two outputs feed the first cell), their channels, and whether the second is half the first's
    resolution.
    """
    if kind == "small":
        return (
            nn.ModuleList([nn.Sequential(nn.Conv2d(image_channels, 3 * c, 3, 1, 1, bias=False), batch_norm(3 * c))]),
            3 * c,
            False,
        )
    first = nn.Sequential(
        nn.Conv2d(image_channels, c // 2, 3, 2, 1, bias=False),
        batch_norm(c // 2),
        nn.ReLU(),
        nn.Conv2d(c // 2, c, 3, 2, 1, bias=False),
        batch_norm(c),
    )
    return nn.ModuleList([first, ConvNorm(c, c, 3, 2)]), c, True


class CellNetwork(Network):
    """Stem, cells, global pool, classifier.

    genotype=None builds the supernet (all candidates, their affine parts at rest); a genotype builds that child alone,
    ready to
    train from scratch or to receive the child's weights. stem: "small" for 8…64 pixels, "imagenet" (stride 8) above.
    """

    absorbs_gates = True
    repeats = True

    def __init__(
        self,
        classes: int,
        image: tuple[int, int, int],
        channels: int,
        cells: int,
        reductions: int = 2,
        stem: str | None = None,
        auxiliary: float = 0.0,
        genotype: Genotype | None = None,
        mean: Tensor | None = None,
        std: Tensor | None = None,
    ):
        super().__init__(classes, image, mean, std)
        self.channels, self.cell_count, self.reductions = channels, cells, reductions
        self.auxiliary = auxiliary
        self.stem_kind = stem or ("imagenet" if min(image[1:]) >= 128 else "small")
        check_depth(image, cells, reductions, self.stem_kind)
        self.slots = cell_slots() if genotype is None else _slots_of(genotype)
        self.stem, c_stem, halved = _stem(self.stem_kind, image[0], channels)
        self._build_cells(c_stem, halved, trained=genotype is not None)
        self._measured: dict[tuple, Cost] = {}

    def _build_cells(self, c_last: int, halved: bool, trained: bool) -> None:
        positions = reduction_positions(self.cell_count, self.reductions)
        c_before, c = c_last, self.channels
        self.cells, self.head = nn.ModuleList(), nn.ModuleDict()
        for i in range(self.cell_count):
            kind = "reduce" if i in positions else "normal"
            c = c * 2 if kind == "reduce" else c
            self.cells.append(Cell(kind, c_before, c_last, c, halved, self.slots, trained))
            halved = kind == "reduce"
            c_before, c_last = c_last, NODES * c
            if self.auxiliary and positions and i == positions[-1]:
                self.head["auxiliary"] = AuxiliaryHead(c_last, self.classes)
                self.auxiliary_at = i
        self.classifier = nn.Linear(c_last, self.classes)

    def scores(self, x: Tensor, child: Child) -> tuple[Tensor, Tensor | None]:
        before = self.stem[0](x).relu_()
        last = self.stem[1](before).relu_() if len(self.stem) > 1 else before
        drop, auxiliary = self.drop_paths(), None
        # taken apart once for all cells, so that the backward pass puts each slot's gradient together once
        gates = [None if (gate := child.gate(slot)) is None else gate.unbind() for slot in range(len(self.slots))]
        for i, cell in enumerate(self.cells):
            output = cell(before, last, child.picks, gates, drop)
            # all that reads a cell's output reads it rectified, but the last one's, which is pooled
            before, last = last, output.relu_() if i + 1 < len(self.cells) else output
            if self.training and "auxiliary" in self.head and i == self.auxiliary_at:
                auxiliary = self.head["auxiliary"](last)
        return self.classifier(self.drop_features(last.mean(dim=(2, 3)))), auxiliary

    # ---- the child -------------------------------------------------------------------------------

    def modules_of(self, picks: Picks) -> list[nn.Module]:
        modules: list[nn.Module] = [*self.stem]
        for cell in self.cells:
            modules += [cell.before, cell.last, *cell.picked(picks)]
        return [*modules, *self.head.values(), self.classifier]

    def freeze_slot(self, slot: int, picks: tuple[int, ...], gate: Tensor | None) -> None:
        for cell in self.cells:
            if cell.first_slot <= slot < cell.first_slot + NODES:
                for k, candidate in enumerate(picks):
                    operation = cell.operation(slot - cell.first_slot, candidate)[0]
                    for norm in (m for m in operation.modules() if isinstance(m, nn.BatchNorm2d)):
                        norm.weight.requires_grad_(True)
                        norm.bias.requires_grad_(True)
                    if gate is not None:
                        with torch.no_grad():
                            last_norm(operation).weight.mul_(gate[k])
                            last_norm(operation).bias.mul_(gate[k])
        self.forget_parameters()

    def genotype(self, picks: Picks) -> Genotype:
        """{"normal": four nodes of [(operation, input), (operation, input)], "reduce": …}; inputs 0, 1 are the two
        cells before.
        """
        nodes = [[slot.candidates[c] for c in chosen] for slot, chosen in zip(self.slots, picks)]
        return {"normal": nodes[:NODES], "reduce": nodes[NODES:]}

    def picks_of(self, genotype: Genotype) -> Picks:
        return picks_of(genotype)

    def spec(self, picks: Picks) -> dict:
        return {
            "space": "cell",
            "classes": self.classes,
            "image": list(self.image),
            "channels": self.channels,
            "cells": self.cell_count,
            "reductions": self.reductions,
            "stem": self.stem_kind,
            "genotype": {
                kind: [[list(e) for e in node] for node in nodes] for kind, nodes in self.genotype(picks).items()
            },
        }

    # ---- cost ------------------------------------------------------------------------------------

    @functools.cached_property
    def _layout(self) -> tuple[Cost, list[tuple[tuple[int, ...], tuple[int, ...]]]]:
        """The cost that every child has, and for each cell the shapes of its inputs and of its nodes after
        preprocessing.
        """
        fixed, shapes, shape = [], [], self.image
        for module in self.stem:
            cost, shape = measure(module, shape)
            fixed.append(cost)
            shapes.append(shape)
        before, last, layout = shapes[0], shapes[-1], []
        for cell in self.cells:
            fixed.append(measure(cell.before, before)[0])
            cost, inner = measure(cell.last, last)
            fixed.append(cost)
            node = (inner[0], -(-inner[1] // cell.stride), -(-inner[2] // cell.stride))
            layout.append((inner, node))
            before, last = last, (NODES * node[0], *node[1:])
        linear = self.classifier
        fixed.append(Cost(linear.weight.numel() + linear.bias.numel(), linear.weight.numel()))
        return total(fixed), layout

    def _candidate_cost(self, slot: int, candidate: int) -> Cost:
        """What a candidate adds, over all cells of its kind; measured when it is first asked for."""
        costs = []
        for cell, (inner, node_shape) in zip(self.cells, self._layout[1]):
            if cell.first_slot <= slot < cell.first_slot + NODES:
                operation, name, edge = cell.operation(slot - cell.first_slot, candidate)
                shape = inner if edge < INPUTS else node_shape
                key = (name, cell.stride if edge < INPUTS else 1, shape)
                if key not in self._measured:
                    self._measured[key] = measure(operation, shape)[0]
                costs.append(self._measured[key])
        return total(costs)

    def cost(self, picks: Picks) -> Cost:
        return total(
            [self._layout[0], *(self._candidate_cost(slot, c) for slot, chosen in enumerate(picks) for c in chosen)]
        )


def _slots_of(genotype: Genotype) -> tuple[Slot, ...]:
    check_genotype(genotype)
    return tuple(
        Slot(f"{kind}/{node}", tuple((op, int(edge)) for op, edge in genotype[kind][node]), len(genotype[kind][node]))
        for kind in ("normal", "reduce")
        for node in range(NODES)
    )


def picks_of(genotype: Genotype) -> Picks:
    """The genotype as candidate indices of the supernet."""
    check_genotype(genotype)
    return tuple(
        tuple(all_candidates(node).index((op, int(edge))) for op, edge in genotype[kind][node])
        for kind in ("normal", "reduce")
        for node in range(NODES)
    )


def check_genotype(genotype: Genotype) -> None:
    for kind in ("normal", "reduce"):
        nodes = genotype.get(kind) if isinstance(genotype, dict) else None
        if not isinstance(nodes, (list, tuple)) or len(nodes) != NODES:
            raise KitError(f"a genotype has the keys 'normal' and 'reduce' with {NODES} nodes each; got {genotype!r}")
        for node, entries in enumerate(nodes):
            pairs = isinstance(entries, (list, tuple)) and all(isinstance(entry, (list, tuple)) for entry in entries)
            if not pairs or len(entries) != 2 or tuple(entries[0]) == tuple(entries[1]):
                raise KitError(
                    f"genotype {kind}/{node}: a node takes two different [operation, input] pairs; got {entries!r}"
                )
            for entry in entries:
                if tuple(entry) not in all_candidates(node):
                    raise KitError(
                        f"genotype {kind}/{node}: {entry!r} is not an (operation, input) with input in 0…{INPUTS + node - 1}; "
                        f"operations: {', '.join(CELL_OPS)}"
                    )


def check_depth(image: tuple[int, int, int], cells: int, reductions: int, stem: str) -> None:
    """Refuse what cannot be built, before anything is."""
    if reductions >= cells:
        raise KitError(
            f"{reductions} reduction cells do not fit into {cells} cells: set cells to {reductions + 1} or more"
        )
    check_halvings(image, 3 if stem == "imagenet" else 0, reductions)
