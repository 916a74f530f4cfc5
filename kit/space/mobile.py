"""MobileNetV2 (Sandler et al. 2018) with a choice of kernel and expansion for every block: AutoHAS's search space."""

from __future__ import annotations

from torch import Tensor, nn

from kit.space.blocks import BlockNetwork, Stage, conv_norm, depthwise, rounded, shares
from kit.space.network import DropPath, register

CHOICES = {"k3_e3": (3, 3), "k3_e6": (3, 6), "k5_e3": (5, 3), "k5_e6": (5, 6)}  # kernel, expansion
# width, blocks, whether the first has stride 2 (Table 2 of the paper, without its first row: that block is fixed)
STAGES = ((24, 2, True), (32, 3, True), (64, 4, True), (96, 3, False), (160, 3, True), (320, 1, False))


class InvertedResidual(nn.Module):
    """1×1 expansion, depthwise convolution, linear 1×1: [N, c_in, H, W] → [N, c_out, ceil(H/stride), ceil(W/stride)].

    drop: drop-path of the residual, where the block has one.
    """

    def __init__(self, c_in: int, c_out: int, stride: int, kernel: int, expansion: int):
        super().__init__()
        c = c_in * expansion
        expand = [conv_norm(c_in, c, 1, 1, nn.ReLU6)] if expansion > 1 else []
        self.layers = nn.Sequential(*expand, depthwise(c, kernel, stride, nn.ReLU6), conv_norm(c, c_out, 1))
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor, drop: DropPath | None = None) -> Tensor:
        y = self.layers(x)
        if not self.residual:
            return y
        return x + (y if drop is None else drop(y))


@register(
    "mobile",
    title="MobileNetV2 blocks",
    brings={
        "channels": {"paper": 32, "server": 32, "laptop": 8},
        "search_channels": {"paper": 32, "server": 32, "laptop": 8},
        "cells": {"paper": 17, "server": 17, "laptop": 6},
    },
)
class MobileNetwork(BlockNetwork):
    """`channels` is the stem's width (paper: 32, the width multiplier is channels / 32); the others scale with it,
    rounded to multiples of 4, and the head has four times the last stage's. `cells` counts the fixed first block
    (expansion 1, without a choice): 17 in the paper. Fewer take from the stages in proportion, and below 7 the last
    stages are left out, since each has one block at least.
    """

    space = "mobile"
    genotypes = {"mobilenet-v2": {"blocks": "k3_e6"}}
    usual = "mobilenet-v2"
    labels = tuple(CHOICES)
    activation = nn.ReLU6

    @staticmethod
    def plan(channels: int, blocks: int) -> tuple[int, tuple[Stage, ...], int]:
        kept = STAGES[: blocks - 1]
        dealt = shares(blocks - 1, [n for _, n, _ in kept])
        stages = tuple(Stage(rounded(width * channels / 32), n, halves) for (width, _, halves), n in zip(kept, dealt))
        return channels, stages, 4 * stages[-1].width

    @staticmethod
    def build_block(label: str, c_in: int, c_out: int, stride: int) -> nn.Module:
        return InvertedResidual(c_in, c_out, stride, *CHOICES[label])

    def build_stem(self, c: int, stride: int) -> nn.Module:
        return nn.Sequential(super().build_stem(c, stride), InvertedResidual(c, self.stem_width(c), 1, 3, 1))

    def stem_width(self, c: int) -> int:
        return rounded(c / 2)

    def run_block(self, block: nn.Module, x: Tensor, slot: int) -> Tensor:
        p = self.drop_path if self.training else 0.0
        if isinstance(p, Tensor) and p.ndim:  # AutoHAS: one for every block
            p = p[slot]
        return block(x, DropPath(p, self.generator))
