"""The cell space of DARTS with DHA's operations: a supernet of which the sampled child runs (METHOD section 2a)."""

from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kit.errors import KitError
from kit.space.layers import ConvNorm, DepthwiseConv, batch_norm, dense_gradient, gated, last_norm
from kit.space.network import Child, Network, Picks, Size, Slot, checked_reductions, picked, register

NODES, INPUTS = 4, 2
KINDS = ("normal", "reduce")
Genotype = dict[str, list[list[tuple[str, int]]]]

# The cells that second-order DARTS found on CIFAR-10 (Liu et al. 2019, Fig. 4 and 5)
DARTS_V2: Genotype = {
    "normal": [[("sep_conv_3x3", 0), ("sep_conv_3x3", 1)], [("sep_conv_3x3", 0), ("sep_conv_3x3", 1)],
               [("sep_conv_3x3", 1), ("skip_connect", 0)], [("skip_connect", 0), ("dil_conv_3x3", 2)]],
    "reduce": [[("max_pool_3x3", 0), ("max_pool_3x3", 1)], [("skip_connect", 2), ("max_pool_3x3", 1)],
               [("max_pool_3x3", 0), ("skip_connect", 2)], [("skip_connect", 2), ("max_pool_3x3", 1)]],
}  # fmt: skip


class Operation(nn.Sequential):
    """Ends in a BatchNorm (pools and skips too: METHOD section 2a), whose affine part can take over a node's weight
    when the node freezes. reads_relu: it reads relu(x), which the cell computes once for all that do, else x itself."""

    def __init__(self, *layers: nn.Module, reads_relu: bool):
        super().__init__(*layers)
        self.reads_relu = reads_relu


class HalvingConv(nn.Conv2d):
    """1×1 convolution of stride 2, weight [c_out, c_in, 1, 1], of which the first half of the outputs reads the even
    pixels and the other the odd ones: one 2×2 convolution with zeros at the other taps, quicker than slices."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__(c_in, c_out, 1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        half = self.out_channels // 2
        kernel = torch.cat([F.pad(self.weight[:half], (0, 1, 0, 1)), F.pad(self.weight[half:], (1, 0, 1, 0))])
        # an odd side gives the even pixels one row more than the odd ones: the row that they lack is zero
        x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2)) if x.shape[2] % 2 or x.shape[3] % 2 else x
        return F.conv2d(x, kernel, stride=2)


def factorized_reduce(c_in: int, c_out: int, trained: bool = True) -> Operation:
    """Halve the resolution without a pool (DARTS): two 1×1 convolutions of stride 2 on grids one pixel apart."""
    return Operation(HalvingConv(c_in, c_out), batch_norm(c_out, trained), reads_relu=True)


def _convolution(kernel: int, dilation: int, repeat: int, c: int, stride: int, trained: bool) -> Operation:
    """A depthwise-separable convolution, applied `repeat` times; the stride is the first one's (DARTS)."""
    made: list[nn.Module] = []
    for i in range(repeat):
        depthwise = DepthwiseConv(c, kernel, 1 if i else stride, dilation)
        made += [nn.ReLU(), depthwise, nn.Conv2d(c, c, 1, bias=False), batch_norm(c, trained)]
    return Operation(*made[1:], reads_relu=True)


def _pool(kind: Callable[[int], nn.Module], c: int, stride: int, trained: bool) -> Operation:
    return Operation(kind(stride), batch_norm(c, trained), reads_relu=False)


def _skip(c: int, stride: int, trained: bool) -> Operation:
    return _pool(nn.Identity, c, stride, trained) if stride == 1 else factorized_reduce(c, c, trained)


#: name → (channels, stride, trained) → module: [N, channels, H, W] → [N, channels, ceil(H/stride), ceil(W/stride)]
OPERATIONS = {
    "sep_conv_3x3": partial(_convolution, 3, 1, 2),
    "sep_conv_5x5": partial(_convolution, 5, 1, 2),
    "dil_conv_3x3": partial(_convolution, 3, 2, 1),
    "dil_conv_5x5": partial(_convolution, 5, 2, 1),
    "max_pool_3x3": partial(_pool, partial(nn.MaxPool2d, 3, padding=1)),
    "avg_pool_3x3": partial(_pool, partial(nn.AvgPool2d, 3, padding=1, count_include_pad=False)),
    "skip_connect": _skip,
}
CELL_OPS = tuple(OPERATIONS)


def cell_slots(operations: Mapping[str, Any] = OPERATIONS) -> tuple[Slot, ...]:
    nodes = [tuple((op, edge) for edge in range(INPUTS + node) for op in operations) for node in range(NODES)]
    return tuple(Slot(f"{kind}/{node}", nodes[node], 2) for kind in KINDS for node in range(NODES))


class Cell(nn.Module):
    """channels: of the two cells before, and of this cell's nodes. halved: the cell before the last has twice the
    resolution of the last. slots: of both kinds. build: operation → (channels, stride) → module."""

    def __init__(self, kind: str, channels: tuple[int, int, int], halved: bool, slots: tuple[Slot, ...], build: dict):
        super().__init__()
        c_before, c_last, c = channels
        first = NODES * KINDS.index(kind)
        self.slots, self.mine = slots, range(first, first + NODES)
        self.before = factorized_reduce(c_before, c) if halved else ConvNorm(c_before, c)
        self.last = ConvNorm(c_last, c)
        self.ops = nn.ModuleDict()
        for slot in self.mine:
            for op, edge in slots[slot].candidates:
                stride = 2 if kind == "reduce" and edge < INPUTS else 1
                self.ops[f"{slot % NODES}-{edge}-{op}"] = build[op](c, stride)

    def operation(self, slot: int, candidate: int) -> tuple[nn.Module, int]:
        op, edge = self.slots[slot].candidates[candidate]
        return self.ops[f"{slot % NODES}-{edge}-{op}"], edge

    def forward(self, before: Tensor, last: Tensor, picks: Picks, gates: list, drop: Callable) -> Tensor:
        """before, last: the two cells' outputs, rectified. gates: of each slot one 0-dim tensor per pick, or None."""
        states = [self.before(before), self.last(last)]
        rectified: dict[int, Tensor] = {}
        for slot in self.mine:
            outputs = []
            for k, candidate in enumerate(picks[slot]):
                operation, edge = self.operation(slot, candidate)
                if operation.reads_relu and edge not in rectified:
                    rectified[edge] = F.relu(states[edge])
                x = rectified[edge] if operation.reads_relu else states[edge]
                y = operation(x) if gates[slot] is None else gated(operation, x, gates[slot][k])
                outputs.append(y if isinstance(operation[0], nn.Identity) else drop(y))  # DARTS
            states.append(dense_gradient(reduce(torch.add, outputs)))
        return torch.cat(states[INPUTS:], dim=1)


def auxiliary_head(channels: int, classes: int, sides: list[int]) -> nn.Sequential:
    """DARTS's second classifier at 2/3 of the depth, for maps of `sides` (H, W), from 2 pixels each."""
    # an AdaptiveAvgPool2d(2), whose own backward pass is not deterministic on GPUs
    pool = nn.AvgPool2d([(side + 1) // 2 for side in sides], [side // 2 for side in sides])
    first = nn.Conv2d(channels, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU()
    second = nn.Conv2d(128, 768, 2, bias=False), nn.BatchNorm2d(768), nn.ReLU()
    return nn.Sequential(nn.ReLU(), pool, *first, *second, nn.Flatten(), nn.Linear(768, classes))


@register("cell", title="DARTS cells")
class CellNetwork(Network):
    """Stem, cells, global pool, classifier. channels: C of the first cell. reductions: how many cells halve the
    resolution. From 128 pixels on the stem has stride 8. In the supernet the operations' affine parts rest until their
    node freezes. Raises KitError for what does not fit into the image.

    Cells of other operations are a subclass: `operations = {**CellNetwork.operations, "mine": build}`, where build
    takes (channels, stride, trained) and gives an `Operation` that ends in a `batch_norm(channels, trained)`."""

    space = "cell"
    absorbs_gates = True
    repeats = True
    genotypes = {"darts-v2": DARTS_V2}
    usual = "darts-v2"
    operations: Mapping[str, Callable[[int, int, bool], nn.Module]] = OPERATIONS

    def __init__(self, classes: int, image: Size, *, channels: int, cells, reductions=2, auxiliary=0.0, genotype=None):
        super().__init__(classes, image)
        checked_reductions(image, 3 if self.large else 0, reductions, cells - 1)
        self.offer(cell_slots(self.operations), genotype)
        c, c_before, self.auxiliary = channels, channels, auxiliary
        if self.large:
            half = ConvNorm(image[0], c // 2, 3, 2)
            stem = [nn.Sequential(*half, nn.ReLU(), *ConvNorm(c // 2, c, 3, 2)), ConvNorm(c, c, 3, 2)]
        else:
            c_before = 3 * c
            stem = [ConvNorm(image[0], c_before, 3)]
        self.stem = nn.ModuleList(stem)  # their outputs feed the first cell
        # at 1/3 and 2/3 of the depth for the usual two (DARTS)
        positions = [(i + 1) * cells // (reductions + 1) for i in range(reductions)]
        self.last_reduction = max(positions, default=None)
        self.cells, self.head = nn.ModuleList(), nn.ModuleDict()
        build = {name: partial(make, trained=genotype is not None) for name, make in self.operations.items()}
        c_last, halved = c_before, self.large
        for i in range(cells):
            kind = "reduce" if i in positions else "normal"
            c = c * 2 if kind == "reduce" else c
            self.cells.append(Cell(kind, (c_before, c_last, c), halved, self.slots, build))
            halved = kind == "reduce"
            c_before, c_last = c_last, NODES * c
            if auxiliary and i == self.last_reduction:
                sides = [-(-side // 2 ** (3 * self.large + reductions)) for side in image[1:]]
                self.head["auxiliary"] = auxiliary_head(c_last, classes, sides)
        self.classifier = nn.Linear(c_last, classes)

    @classmethod
    def check(cls, config: Any) -> None:
        side, reductions = config.image_size or 1024, 2 if config.reductions is None else config.reductions
        for cells in (config.cells, config.search_cells)[: 1 + config.searches_apart]:
            checked_reductions((3, side, side), 0, reductions, cells - 1)

    def scores(self, x: Tensor, child: Child) -> tuple[Tensor, Tensor | None]:
        before = F.relu(self.stem[0](x))
        last = F.relu(self.stem[1](before)) if len(self.stem) > 1 else before
        auxiliary = None
        # taken apart once for all cells, so that the backward pass puts each slot's gradient together once
        gates = [None if (gate := child.gate(slot)) is None else gate.unbind() for slot in range(len(self.slots))]
        for i, cell in enumerate(self.cells):
            output = cell(before, last, child.picks, gates, self.drop_samples)
            # all that reads a cell's output reads it rectified, but the last one's, which is pooled
            before, last = last, F.relu(output) if i + 1 < len(self.cells) else output
            if self.training and self.auxiliary and i == self.last_reduction:
                auxiliary = self.head["auxiliary"](last)
        return self.classifier(self.drop_features(last.mean(dim=(2, 3)))), auxiliary

    def modules_of(self, picks: Picks) -> list[nn.Module]:
        modules: list[nn.Module] = [*self.stem]
        for cell in self.cells:
            modules += [cell.before, cell.last]
            modules += [cell.operation(slot, candidate)[0] for slot in cell.mine for candidate in picks[slot]]
        return [*modules, *self.head.values(), self.classifier]

    @torch.no_grad()
    def freeze_slot(self, slot: int, picks: tuple[int, ...], gate: Tensor | None) -> None:
        for cell in (cell for cell in self.cells if slot in cell.mine):
            for k, candidate in enumerate(picks):
                operation = cell.operation(slot, candidate)[0].requires_grad_(True)
                for parameter in () if gate is None else last_norm(operation).parameters():
                    parameter.mul_(gate[k])

    def genotype(self, picks: Picks) -> Genotype:
        """{"normal": four nodes of two [operation, input], "reduce": …}; inputs 0 and 1 are the two cells before."""
        nodes = [[list(slot.candidates[c]) for c in chosen] for slot, chosen in zip(self.slots, picks)]
        return {"normal": nodes[:NODES], "reduce": nodes[NODES:]}

    def picks_of(self, genotype: Genotype) -> Picks:
        cells = [genotype.get(kind) for kind in KINDS] if isinstance(genotype, Mapping) else []
        if not cells or any(not isinstance(cell, (list, tuple)) or len(cell) != NODES for cell in cells):
            raise KitError(f"a genotype has the keys 'normal' and 'reduce' with {NODES} nodes each; got {genotype!r}")
        return tuple(map(picked, self.offered, [node for cell in cells for node in cell]))

    @classmethod
    def graph(cls, genotype: Genotype) -> dict[str, list[tuple[str, str, str]]]:
        sources = ("cₖ₋₂", "cₖ₋₁", *map(str, range(NODES)))
        ends = [(str(i), "cₖ", "concatenate") for i in range(NODES)]
        edges = lambda nodes: [(sources[edge], str(i), op) for i, node in enumerate(nodes) for op, edge in node]
        return {f"{kind} cell": edges(nodes) + ends for kind, nodes in genotype.items()}
