"""Chains of blocks with one choice per block: the base of such spaces, and the ShuffleNetV2 choice blocks of DSNAS and
DiffAutoML
(METHOD section 2b)."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kit.errors import KitError
from kit.space.cost import measure, total
from kit.space.layers import DepthwiseConv, batch_norm
from kit.space.network import Child, Cost, Network, Picks, Slot, check_halvings, fitting_halvings, gate_output

CHOICES = ("shuffle_3x3", "shuffle_5x5", "shuffle_7x7", "xception")


@dataclass(frozen=True)
class Stage:
    """Blocks of one width; the first may halve the resolution."""

    width: int
    blocks: int
    halves: bool = True


def shares(blocks: int, weights: Sequence[int]) -> list[int]:
    """`blocks` dealt out in proportion to `weights`, at least one each: every next one where most is missing, the
    earliest first.

    >>> shares(20, (1, 1, 2, 1)), shares(6, (1, 1, 2, 1))
    ([4, 4, 8, 4], [1, 1, 3, 1])
    """
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
    which one is picked.

    channels: the width that all others scale with. blocks: how many, over all stages. reductions: how many stages halve
    the resolution,
    the last ones; None takes all at 128 pixels and above, below that up to three as long as 2×2 is left. stem: "small"
    (stride 1, below
    128 pixels) or "imagenet" (stride 2). genotype=None builds the supernet; a genotype builds that child alone, its
    parameters named as
    in the supernet. Raises KitError for blocks and reductions that the space or the image is too small for.

    A child that picks several candidates of a block gets the sum of their outputs, each times its gate. BatchNorms
    train their affine
    parts from the start (DSNAS), so that a frozen slot has nothing to switch on.
    """

    space: str
    labels: tuple[str, ...]
    least_blocks: int = 4
    activation: type[nn.Module] = nn.ReLU
    eps: float = 1e-5  # of the BatchNorms

    def __init__(
        self,
        classes: int,
        image: tuple[int, int, int],
        channels: int,
        blocks: int,
        reductions: int | None = None,
        stem: str | None = None,
        genotype: Mapping | None = None,
        mean: Tensor | None = None,
        std: Tensor | None = None,
    ):
        super().__init__(classes, image, mean, std)
        if blocks < self.least_blocks:
            raise KitError(
                f"space {self.space!r} needs {self.least_blocks} blocks or more, got {blocks}: set cells to {self.least_blocks} or more"
            )
        self.channels, self.block_count = channels, blocks
        self.stem_kind = stem or ("imagenet" if min(image[1:]) >= 128 else "small")
        c, stages, c_head = self.plan(channels, blocks)
        self.reductions = self._checked_reductions(reductions, stages)
        self.slots = _all_slots(stages, self.labels)
        if genotype is not None:
            self.slots = tuple(
                Slot(slot.name, (slot.candidates[c],), 1) for slot, (c,) in zip(self.slots, self.picks_of(genotype))
            )
        self.stem = self.build_stem(c, 2 if self.stem_kind == "imagenet" else 1)
        self._build_blocks(self.stem_width(c), stages)
        self.head = conv_norm(stages[-1].width, c_head, 1, 1, self.activation)
        self.classifier = nn.Linear(c_head, classes)
        for norm in (m for m in self.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.eps = self.eps
        self._measured: dict[tuple, Cost] = {}

    # ---- what a space says of itself -------------------------------------------------------------

    @staticmethod
    @abstractmethod
    def plan(channels: int, blocks: int) -> tuple[int, tuple[Stage, ...], int]:
        """Channels of the stem's convolution, the stages, channels of the head."""

    @staticmethod
    @abstractmethod
    def build_block(label: str, c_in: int, c_out: int, stride: int) -> nn.Module:
        """One candidate: [N, c_in, H, W] → [N, c_out, ceil(H/stride), ceil(W/stride)], float."""

    def build_stem(self, c: int, stride: int) -> nn.Module:
        return conv_norm(self.image[0], c, 3, stride, self.activation)

    def stem_width(self, c: int) -> int:
        return c

    def run_block(self, block: nn.Module, x: Tensor, slot: int) -> Tensor:
        return block(x)

    # ---- building --------------------------------------------------------------------------------

    def _checked_reductions(self, reductions: int | None, stages: tuple[Stage, ...]) -> int:
        stem = 1 if self.stem_kind == "imagenet" else 0
        most = sum(stage.halves for stage in stages)
        if reductions is None:
            reductions = max(0, min(most, 4 if stem else 3, fitting_halvings(self.image) - stem))
        if not 0 <= reductions <= most:
            raise KitError(
                f"reductions={reductions}: {most} stages of space {self.space!r} with {self.block_count} blocks can halve the "
                f"resolution; set reductions to 0…{most}, or leave it out"
            )
        check_halvings(self.image, stem, reductions)
        return reductions

    def _build_blocks(self, c: int, stages: tuple[Stage, ...]) -> None:
        halving = [i for i, stage in enumerate(stages) if stage.halves]
        halving = halving[len(halving) - self.reductions :]
        self.blocks, self.strides = nn.ModuleList(), []
        slots = iter(self.slots)
        for i, stage in enumerate(stages):
            for b in range(stage.blocks):
                stride = 2 if b == 0 and i in halving else 1
                candidates = {
                    label: self.build_block(label, c, stage.width, stride) for label, _ in next(slots).candidates
                }
                self.blocks.append(nn.ModuleDict(candidates))
                self.strides.append((c, stage.width, stride))
                c = stage.width

    def block(self, slot: int, candidate: int) -> nn.Module:
        return self.blocks[slot][self.slots[slot].candidates[candidate][0]]

    # ---- running ---------------------------------------------------------------------------------

    def scores(self, x: Tensor, child: Child) -> tuple[Tensor, None]:
        x = self.stem(x)
        for slot in range(len(self.slots)):
            x = self._mixture(slot, x, child)
        return self.classifier(self.drop_features(self.head(x).mean(dim=(2, 3)))), None

    def _mixture(self, slot: int, x: Tensor, child: Child) -> Tensor:
        gate = child.gate(slot)
        outputs = [self.run_block(self.block(slot, candidate), x, slot) for candidate in child.picks[slot]]
        if gate is not None:
            outputs = [gate_output(y, g, child.unit) for y, g in zip(outputs, gate.unbind())]
        return functools.reduce(torch.add, outputs)

    # ---- the child -------------------------------------------------------------------------------

    def modules_of(self, picks: Picks) -> list[nn.Module]:
        picked = [self.block(slot, candidate) for slot, chosen in enumerate(picks) for candidate in chosen]
        return [self.stem, *picked, self.head, self.classifier]

    def freeze_slot(self, slot: int, picks: tuple[int, ...], gate: Tensor | None) -> None:
        """All affine parts train already. A gate is not absorbed: the unit's half that passes by has no layer to take
        it, and the
        estimators of these spaces have gates of 1."""
        self.forget_parameters()

    def genotype(self, picks: Picks) -> dict[str, list[str]]:
        """{"blocks": the picked candidate's name for every block}."""
        return {"blocks": [slot.candidates[c][0] for slot, (c,) in zip(self.slots, picks)]}

    def picks_of(self, genotype: Any) -> Picks:
        """Takes {"blocks": a name for every block}, or {"blocks": name} for that one everywhere."""
        names = genotype.get("blocks") if isinstance(genotype, Mapping) else None
        names = [names] * len(self.slots) if isinstance(names, str) else names
        if not isinstance(names, (list, tuple)) or len(names) != len(self.slots):
            raise KitError(
                f"a genotype of space {self.space!r} is {{'blocks': [{len(self.slots)} names]}}, or {{'blocks': name}} for the same "
                f"everywhere, names from {', '.join(self.labels)}; got {genotype!r}"
            )
        for slot, name in zip(self.slots, names):
            if name not in self.labels:
                raise KitError(
                    f"genotype {slot.name}: {name!r} is not a block of space {self.space!r}; blocks: {', '.join(self.labels)}"
                )
        return tuple((self.labels.index(name),) for name in names)

    def spec(self, picks: Picks) -> dict:
        return {
            "space": self.space,
            "classes": self.classes,
            "image": list(self.image),
            "channels": self.channels,
            "cells": self.block_count,
            "reductions": self.reductions,
            "stem": self.stem_kind,
            "genotype": self.genotype(picks),
        }

    # ---- cost ------------------------------------------------------------------------------------

    @functools.cached_property
    def _layout(self) -> tuple[Cost, list[tuple[int, ...]]]:
        """The cost that every child has, and the shape of each block's input."""
        cost, shape = measure(self.stem, self.image)
        fixed, shapes = [cost], []
        for _, c_out, stride in self.strides:
            shapes.append(shape)
            shape = (c_out, -(-shape[1] // stride), -(-shape[2] // stride))
        fixed += [measure(self.head, shape)[0], measure(self.classifier, (self.classifier.in_features,))[0]]
        return total(fixed), shapes

    def _candidate_cost(self, slot: int, candidate: int) -> Cost:
        """Measured when it is first asked for, once for all blocks that are alike."""
        shape = self._layout[1][slot]
        key = (self.slots[slot].candidates[candidate], self.strides[slot], shape)
        if key not in self._measured:
            self._measured[key] = measure(self.block(slot, candidate), shape)[0]
        return self._measured[key]

    def cost(self, picks: Picks) -> Cost:
        return total(
            [self._layout[0], *(self._candidate_cost(slot, c) for slot, chosen in enumerate(picks) for c in chosen)]
        )


def _all_slots(stages: tuple[Stage, ...], labels: tuple[str, ...]) -> tuple[Slot, ...]:
    candidates = tuple((label, 0) for label in labels)
    return tuple(
        Slot(f"stage{i}/block{b}", candidates, 1)
        for i, stage in enumerate(stages, start=1)
        for b in range(stage.blocks)
    )


# ---- layers --------------------------------------------------------------------------------------


def conv_norm(
    c_in: int, c_out: int, kernel: int, stride: int = 1, activation: type[nn.Module] | None = None
) -> nn.Sequential:
    return _normed(nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False), activation)


def depthwise(c: int, kernel: int, stride: int, activation: type[nn.Module] | None = None) -> nn.Sequential:
    return _normed(DepthwiseConv(c, kernel, stride), activation)


def _normed(conv: nn.Conv2d, activation: type[nn.Module] | None) -> nn.Sequential:
    return nn.Sequential(conv, batch_norm(conv.out_channels), *([activation()] if activation else []))


def shuffle(left: Tensor, right: Tensor) -> Tensor:
    """Concatenate along the channels and let those of the two halves take turns (ShuffleNetV2's channel shuffle).

    By way of the channels-last view: a shuffle of [N, C, H, W] would leave the layout that the convolutions run in.
    """
    if left.shape[1] == right.shape[1]:  # both at once, one copy
        return torch.stack((left.permute(0, 2, 3, 1), right.permute(0, 2, 3, 1)), dim=4).flatten(3).permute(0, 3, 1, 2)
    both = torch.cat((left, right), dim=1).permute(0, 2, 3, 1)
    return both.unflatten(3, (2, -1)).transpose(3, 4).flatten(3).permute(0, 3, 1, 2)


class ShuffleUnit(nn.Module):
    """A ShuffleNetV2 unit (Ma et al. 2018, Fig. 3c and d): [N, c_in, H, W] → [N, c_out, ceil(H/stride),
    ceil(W/stride)].

    Where nothing changes in size, half of the channels pass by and the other half is transformed; else the input takes
    two branches,
    of which the projection keeps its channels as far as they fit (16 + 48 = 64 in the paper's first stage).
    """

    def __init__(self, label: str, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.passes = stride == 1 and c_in == c_out
        kernel = 3 if label == "xception" else int(label[-1])
        c_left = c_out // 2 if self.passes else min(c_in, c_out // 2)
        c_right_in = c_in - c_left if self.passes else c_in
        main = _xception if label == "xception" else _pointwise_pair
        self.main = main(c_right_in, c_out // 2, c_out - c_left, kernel, stride)
        if not self.passes:
            self.projection = nn.Sequential(depthwise(c_in, kernel, stride), conv_norm(c_in, c_left, 1, 1, nn.ReLU))

    def forward(self, x: Tensor) -> Tensor:
        if self.passes:
            left, right = x.chunk(2, dim=1)
            return shuffle(left, self.main(right))
        return shuffle(self.projection(x), self.main(x))


def _pointwise_pair(c_in: int, c: int, c_out: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        conv_norm(c_in, c, 1, 1, nn.ReLU), depthwise(c, kernel, stride), conv_norm(c, c_out, 1, 1, nn.ReLU)
    )


def _xception(c_in: int, c: int, c_out: int, kernel: int, stride: int) -> nn.Sequential:
    """Three depthwise-separable convolutions (Xception), the stride on the first."""
    return nn.Sequential(
        depthwise(c_in, kernel, stride),
        conv_norm(c_in, c, 1, 1, nn.ReLU),
        depthwise(c, kernel, 1),
        conv_norm(c, c, 1, 1, nn.ReLU),
        depthwise(c, kernel, 1),
        conv_norm(c, c_out, 1, 1, nn.ReLU),
    )


class ChoiceNetwork(BlockNetwork):
    """DSNAS's and DiffAutoML's space: `channels` is the first stage's width C (paper: 64), the others are 2.5 C, 5 C
    and 10 C, the stem's
    C / 4 (at least 8), the head's 16 C, each rounded to a multiple of 4. Paper: 20 blocks, 4, 4, 8 and 4 to the stages.

    The BatchNorms' eps is that of DSNAS's public code. What only normalised layers read (the last block of each stage)
    has no scale of
    its own: its ∂L/∂gate would be zero but for eps, and with torch's 1e-5 the gate learns nothing.
    """

    space = "choice"
    labels = CHOICES
    eps = 1e-2

    @staticmethod
    def plan(channels: int, blocks: int) -> tuple[int, tuple[Stage, ...], int]:
        widths = [rounded(channels * factor) for factor in (1, 2.5, 5, 10)]
        stages = tuple(Stage(width, n) for width, n in zip(widths, shares(blocks, (1, 1, 2, 1))))
        return rounded(channels / 4, least=8), stages, rounded(16 * channels)

    @staticmethod
    def build_block(label: str, c_in: int, c_out: int, stride: int) -> nn.Module:
        return ShuffleUnit(label, c_in, c_out, stride)
