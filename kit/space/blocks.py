"""Chains of blocks with one choice per block: the base of such spaces, the ShuffleNetV2 choice blocks of DSNAS and
DiffAutoML (METHOD section 2b), and AutoHAS's MobileNetV2 blocks."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kit.errors import KitError
from kit.space.layers import ConvNorm, DepthwiseConv, batch_norm, norms
from kit.space.network import Child, Network, Picks, Size, Slot, checked_reductions, mixture, picked, register


def shares(blocks: int, weights: Sequence[int]) -> list[int]:
    """`blocks` dealt out in proportion to `weights`, at least one each: every next one where most is missing."""
    dealt = [1] * len(weights)
    while sum(dealt) < blocks:
        missing = [blocks * w / sum(weights) - have for w, have in zip(weights, dealt)]
        dealt[missing.index(max(missing))] += 1
    return dealt


def rounded(width: float, least: int = 4) -> int:
    """The nearest multiple of 4: a ShuffleNetV2 unit splits its channels in halves, and its own halves stay even."""
    return max(least, 4 * int(width / 4 + 0.5))


class BlockNetwork(Network):
    """Stem, blocks in stages, 1×1 head, global pool, classifier; each block is one slot with the same candidates, of
    which one is picked. A subclass says by `labels`, `stages` and `build_block` which blocks there are.

    channels: the width that all others scale with. cells: how many blocks, over all stages. reductions: how many stages
    halve the resolution, the last ones; None: as many as the image allows. From 128 pixels on the stem halves it, too.
    Raises KitError for what does not fit. BatchNorms train their affine parts from the start (DSNAS): none has to be
    switched on when a slot is frozen, and no gate is absorbed."""

    labels: tuple[str, ...]
    #: of each its width, a multiple of `channels`, its share of the blocks, and whether the first one may halve
    stages: tuple[tuple[float, int, bool], ...]
    fixed_blocks: int = 0  # that the stem brings
    activation: type[nn.Module] = nn.ReLU
    eps: float = 1e-5  # of the BatchNorms

    def __init__(self, classes: int, image: Size, *, channels: int, cells: int, reductions=None, genotype=None):
        super().__init__(classes, image)
        self.channels = channels
        stages, halving = self.stages_of(cells)
        counts = shares(cells - self.fixed_blocks, [share for _, share, _ in stages])
        self.reductions = checked_reductions(image, int(self.large), reductions, len(halving))
        names = [f"stage{i}/block{b}" for i, count in enumerate(counts, start=1) for b in range(count)]
        self.offer(tuple(Slot(name, tuple((label, 0) for label in self.labels)) for name in names), genotype)
        self.own_drop_paths = len(self.slots)
        self.stem, c = self.build_stem(2 if self.large else 1)
        self.strides, halving = [], halving[len(halving) - self.reductions :]  # channels in and out, stride
        for i, ((width, _, _), count) in enumerate(zip(stages, counts)):
            for b in range(count):
                c_in, c = c, rounded(width * channels)
                self.strides.append((c_in, c, 2 if b == 0 and i in halving else 1))
        of = lambda slot, size: nn.ModuleDict({label: self.build_block(label, *size) for label, _ in slot.candidates})
        self.blocks = nn.ModuleList(map(of, self.slots, self.strides))
        c_head = self.head_width(c)
        self.head, self.classifier = ConvNorm(c, c_head, 1, 1, self.activation()), nn.Linear(c_head, classes)
        for norm in norms(self):
            norm.eps = self.eps

    @classmethod
    def stages_of(cls, cells: int) -> tuple[Sequence[tuple[float, int, bool]], list[int]]:
        """The stages of so many blocks, and which of them can halve the resolution."""
        if cells < 4:
            raise KitError(f"space {cls.space!r} needs 4 blocks or more, got {cells}: set cells to 4 or more")
        stages = cls.stages[: cells - cls.fixed_blocks]
        return stages, [i for i, (_, _, halves) in enumerate(stages) if halves]

    @classmethod
    def check(cls, config: Any) -> None:
        side = config.image_size or 1024
        checked_reductions((3, side, side), 0, config.reductions, len(cls.stages_of(config.cells)[1]))

    @staticmethod
    @abstractmethod
    def build_block(label: str, c_in: int, c_out: int, stride: int) -> nn.Module:
        """One candidate: x [N, c_in, H, W] and drop-path, for what has a residual → [N, c_out, ceil(H/stride), …]."""

    def build_stem(self, stride: int) -> tuple[nn.Module, int]:
        """Module and the channels that it gives."""
        c = rounded(self.channels / 4, least=8)
        return ConvNorm(self.image[0], c, 3, stride, self.activation()), c

    def head_width(self, c: int) -> int:
        """Channels of the head, for c of the last stage."""
        return rounded(16 * self.channels)

    def block(self, slot: int, candidate: int) -> nn.Module:
        return self.blocks[slot][self.slots[slot].candidates[candidate][0]]

    def scores(self, x: Tensor, child: Child) -> tuple[Tensor, None]:
        x = self.stem(x)
        for slot, picks in enumerate(child.picks):
            drop = partial(self.drop_samples, block=slot)
            x = mixture([self.block(slot, candidate)(x, drop) for candidate in picks], child, slot)
        return self.classifier(self.drop_features(self.head(x).mean(dim=(2, 3)))), None

    def modules_of(self, picks: Picks) -> list[nn.Module]:
        blocks = [self.block(slot, candidate) for slot, chosen in enumerate(picks) for candidate in chosen]
        return [self.stem, *blocks, self.head, self.classifier]

    def genotype(self, picks: Picks) -> dict[str, list[str]]:
        return {"blocks": [slot.candidates[c][0] for slot, (c,) in zip(self.slots, picks)]}

    def picks_of(self, genotype: Any) -> Picks:
        """Takes {"blocks": a name for every block}, or {"blocks": name} for that one everywhere."""
        count = len(self.offered)
        names = genotype.get("blocks") if isinstance(genotype, Mapping) else None
        names = [names] * count if isinstance(names, str) else names
        if not isinstance(names, (list, tuple)) or len(names) != count:
            forms = f"{{'blocks': [{count} names]}} or {{'blocks': name}}"
            raise KitError(f"a genotype of {self.space!r} is {forms}, of {', '.join(self.labels)}; got {genotype!r}")
        return tuple(map(picked, self.offered, names))

    @classmethod
    def graph(cls, genotype: Mapping) -> dict[str, list[tuple[str, str, str]]]:
        """One chain; of a genotype with the same block everywhere, one link of it."""
        names = [genotype["blocks"]] if isinstance(genotype["blocks"], str) else genotype["blocks"]
        nodes = ["stem", *(f"block {i}" for i in range(1, len(names) + 1))]
        return {"blocks": list(zip(nodes, nodes[1:], names))}


def depthwise(c: int, kernel: int, stride: int, *activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(DepthwiseConv(c, kernel, stride), batch_norm(c), *activation)


def shuffle(left: Tensor, right: Tensor) -> Tensor:
    """ShuffleNetV2's channel shuffle of the two, in the channels-last view, in which the convolutions run."""
    left, right = left.permute(0, 2, 3, 1), right.permute(0, 2, 3, 1)
    if left.shape[3] == right.shape[3]:  # in one copy
        return torch.stack((left, right), dim=4).flatten(3).permute(0, 3, 1, 2)
    return torch.cat((left, right), dim=3).unflatten(3, (2, -1)).transpose(3, 4).flatten(3).permute(0, 3, 1, 2)


class ShuffleUnit(nn.Module):
    """A ShuffleNetV2 unit (Ma et al. 2018, Fig. 3c and d): [N, c_in, H, W] to [N, c_out, H/stride, W/stride]. Where
    nothing changes in size, half of the channels pass by and the other half is transformed; else the input takes two
    branches, of which the projection keeps its channels as far as they fit (16 + 48 = 64 in the paper's stage 1)."""

    def __init__(self, label: str, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.passes = stride == 1 and c_in == c_out
        xception, c = label == "xception", c_out // 2
        kernel = 3 if xception else int(label[-1])
        c_left = c if self.passes else min(c_in, c)
        c_right = c_in - c_left if self.passes else c_in
        pointwise = lambda c_in, c_out: ConvNorm(c_in, c_out, 1, 1, nn.ReLU())
        if xception:  # three depthwise-separable convolutions, the stride on the first
            widths = ((c_right, c, stride), (c, c, 1), (c, c_out - c_left, 1))
            main = [layer for i, o, s in widths for layer in (depthwise(i, 3, s), pointwise(i, o))]
        else:
            main = [pointwise(c_right, c), depthwise(c, kernel, stride), pointwise(c, c_out - c_left)]
        self.main = nn.Sequential(*main)
        if not self.passes:
            self.projection = nn.Sequential(depthwise(c_in, kernel, stride), pointwise(c_in, c_left))

    def forward(self, x: Tensor, drop: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        left, right = x.chunk(2, dim=1) if self.passes else (self.projection(x), x)
        return shuffle(left, self.main(right))


@register(
    "choice",
    title="ShuffleNetV2 choice blocks",
    brings=dict.fromkeys(("channels", "search_channels"), {"paper": 64, "server": 32, "laptop": 16})
    | {"cells": {"paper": 20, "server": 20, "laptop": 6}}
    | {"batch_size": {"paper": 1024}, "lr": {"paper": 0.5}, "weight_decay": {"paper": 4e-5}},  # DSNAS
)
class ChoiceNetwork(BlockNetwork):
    """DSNAS's and DiffAutoML's space: `channels` is the first stage's width C (paper: 64), the others are 2.5 C, 5 C
    and 10 C, the stem's C / 4 (at least 8), the head's 16 C. Paper: 20 blocks, 4, 4, 8 and 4 to the stages."""

    space = "choice"
    genotypes = {"shufflenet-v2": {"blocks": "shuffle_3x3"}}
    usual = "shufflenet-v2"
    labels = ("shuffle_3x3", "shuffle_5x5", "shuffle_7x7", "xception")
    stages = ((1, 1, True), (2.5, 1, True), (5, 2, True), (10, 1, True))
    # of DSNAS's public code. The last block of a stage, which only normalised layers read, has no scale of its own: its
    # ∂L/∂gate is zero but for eps, and with torch's 1e-5 the gate learns nothing
    eps = 1e-2
    build_block = staticmethod(ShuffleUnit)


class InvertedResidual(nn.Module):
    """MobileNetV2's block (Sandler et al. 2018): [N, c_in, H, W] to [N, c_out, H/stride, W/stride]."""

    def __init__(self, c_in: int, c_out: int, stride: int, kernel: int, expansion: int):
        super().__init__()
        c = c_in * expansion
        expand = [ConvNorm(c_in, c, 1, 1, nn.ReLU6())] if expansion > 1 else []
        self.layers = nn.Sequential(*expand, depthwise(c, kernel, stride, nn.ReLU6()), ConvNorm(c, c_out, 1))
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor, drop: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        y = self.layers(x)
        return x + (drop(y) if drop else y) if self.residual else y


@register(
    "mobile",
    title="MobileNetV2 blocks",
    brings=dict.fromkeys(("channels", "search_channels"), {"paper": 32, "server": 32, "laptop": 8})
    | {"cells": {"paper": 17, "server": 17, "laptop": 6}},
)
class MobileNetwork(BlockNetwork):
    """MobileNetV2 with a choice of kernel and expansion for every block. `channels` is the stem's width (paper: 32),
    the head has four times the last stage's. `cells` counts the fixed first block (paper: 17); below 7 the last stages
    are left out."""

    space = "mobile"
    genotypes = {"mobilenet-v2": {"blocks": "k3_e6"}}
    usual = "mobilenet-v2"
    labels = ("k3_e3", "k3_e6", "k5_e3", "k5_e6")  # kernel and expansion
    activation = nn.ReLU6
    # Table 2 of the paper, without its first row: that block is fixed
    stages = ((0.75, 2, True), (1, 3, True), (2, 4, True), (3, 3, False), (5, 3, True), (10, 1, False))
    fixed_blocks = 1

    @staticmethod
    def build_block(label: str, c_in: int, c_out: int, stride: int) -> nn.Module:
        return InvertedResidual(c_in, c_out, stride, kernel=int(label[1]), expansion=int(label[-1]))

    def build_stem(self, stride: int) -> tuple[nn.Module, int]:
        c = self.channels
        first = ConvNorm(self.image[0], c, 3, stride, nn.ReLU6())
        return nn.Sequential(first, InvertedResidual(c, rounded(c / 2), 1, 3, 1)), rounded(c / 2)

    def head_width(self, c: int) -> int:
        return 4 * c
