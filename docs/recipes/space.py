"""A search space of your own, in one file: small cells as in NAS-Bench-201 (Dong & Yang 2020).

A cell has a few nodes, and every pair of them is an edge that takes one of five operations; all cells are alike. Use it
by name, with every method whose architecture learner fits:

    kit.Config(plugins="docs/recipes/space.py", method="dsnas", space="small-cells", cell_nodes=4)
    papermill notebooks/ablation.ipynb out.ipynb -p plugins docs/recipes/space.py -p space small-cells
"""

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from torch import Tensor, nn

from kit import registry
from kit.space import Child, Network, Picks, Slot, register
from kit.space.network import checked_reductions, mixture


class Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 0.0


def conv(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(nn.ReLU(), layer, nn.BatchNorm2d(c_out))


OPERATIONS = {
    "none": lambda c: Zero(),
    "skip_connect": lambda c: nn.Identity(),
    "conv_1x1": lambda c: conv(c, c, 1),
    "conv_3x3": lambda c: conv(c, c, 3),
    "avg_pool_3x3": lambda c: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
}


def edges(nodes: int) -> list[str]:
    return [f"{source}→{target}" for target in range(1, nodes) for source in range(target)]


RESNET = dict(zip(edges(4), ("conv_3x3", "none", "conv_3x3", "skip_connect", "none", "skip_connect")))


class Cell(nn.Module):
    def __init__(self, slots: tuple[Slot, ...], c: int):
        super().__init__()
        self.edges = nn.ModuleList(nn.ModuleDict({op: OPERATIONS[op](c) for op, _ in s.candidates}) for s in slots)
        self.slots = slots

    def operations(self, slot: int, picks: Picks) -> list[nn.Module]:
        return [self.edges[slot][self.slots[slot].candidates[c][0]] for c in picks[slot]]

    def forward(self, x: Tensor, child: Child) -> Tensor:
        nodes, slot = [x], 0
        while slot < len(self.slots):
            inputs = []
            for source in nodes:  # an edge from every node so far leads to the next one
                inputs.append(mixture([op(source) for op in self.operations(slot, child.picks)], child, slot))
                slot += 1
            nodes.append(sum(inputs))
        return nodes[-1]


@register("small-cells", title="Small cells", brings={"channels": {"laptop": 8, "server": 16, "paper": 16}})
class SmallCells(Network):
    """Stem, cells with halvings between them, global pool, classifier."""

    class Options(registry.Options):
        cell_nodes: int = Field(4, ge=2, le=8, description="nodes of a cell, the input among them")

    repeats = True  # the same architecture at any depth
    genotypes = {"small-resnet": RESNET}
    usual = "small-resnet"

    def __init__(
        self,
        classes: int,
        image: tuple[int, int, int],
        *,
        channels: int,
        cells: int,
        reductions: int = 2,
        cell_nodes: int = 4,
        genotype: Mapping[str, Any] | None = None,
    ):
        super().__init__(classes, image)
        reductions = checked_reductions(image, 0, reductions, cells - 1)
        self.offer(tuple(Slot(edge, tuple((op, 0) for op in OPERATIONS)) for edge in edges(cell_nodes)), genotype)
        halved_at = [(i + 1) * cells // (reductions + 1) for i in range(reductions)]
        self.stem, self.layers, c = conv(image[0], channels, 3)[1:], nn.ModuleList(), channels
        for i in range(cells):
            if i in halved_at:
                self.layers.append(conv(c, 2 * c, 3, stride=2))
                c *= 2
            self.layers.append(Cell(self.slots, c))
        self.norm, self.classifier = nn.Sequential(nn.BatchNorm2d(c), nn.ReLU()), nn.Linear(c, classes)

    def scores(self, x: Tensor, child: Child) -> tuple[Tensor, None]:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x, child) if isinstance(layer, Cell) else layer(x)
        return self.classifier(self.drop_features(self.norm(x).mean(dim=(2, 3)))), None

    def modules_of(self, picks: Picks) -> list[nn.Module]:
        cells = [layer for layer in self.layers if isinstance(layer, Cell)]
        halvings = [layer for layer in self.layers if not isinstance(layer, Cell)]
        picked = [op for cell in cells for slot in range(len(picks)) for op in cell.operations(slot, picks)]
        return [self.stem, *halvings, *picked, self.norm, self.classifier]

    def genotype(self, picks: Picks) -> dict[str, str]:
        return {slot.name: slot.candidates[c][0] for slot, (c,) in zip(self.slots, picks)}

    @classmethod
    def graph(cls, genotype: Mapping[str, str]) -> dict[str, list[tuple[str, str, str]]]:
        return {"cell": [(*edge.split("→"), operation) for edge, operation in genotype.items()]}
