"""MobileNetV2 (Sandler et al. 2018) with a choice of kernel and expansion for every block: AutoHAS's search space."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from kit.space.blocks import BlockNetwork, BlockStage, depthwise, rounded
from kit.space.layers import ConvNorm
from kit.space.network import drop, register

CHOICES = {"k3_e3": (3, 3), "k3_e6": (3, 6), "k5_e3": (5, 3), "k5_e6": (5, 6)}  # kernel, expansion


class InvertedResidual(nn.Module):
    """1×1 expansion, depthwise convolution, linear 1×1: [N, c_in, H, W] to [N, c_out, H/stride, W/stride]."""

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
    brings={
        "channels": {"paper": 32, "server": 32, "laptop": 8},
        "search_channels": {"paper": 32, "server": 32, "laptop": 8},
        "cells": {"paper": 17, "server": 17, "laptop": 6},
    },
)
class MobileNetwork(BlockNetwork):
    """`channels` is the stem's width (paper: 32, the width multiplier is channels / 32); the others scale with it, and
    the head has four times the last stage's. `cells` counts the fixed first block (expansion 1, without a choice): 17
    in the paper. Below 7 the last stages are left out, since each has one block at least.
    """

    space = "mobile"
    genotypes = {"mobilenet-v2": {"blocks": "k3_e6"}}
    usual = "mobilenet-v2"
    labels = tuple(CHOICES)
    activation = nn.ReLU6

    # Table 2 of the paper, without its first row: that block is fixed
    stages = tuple(BlockStage(*row) for row in ((0.75, 2), (1, 3), (2, 4), (3, 3, False), (5, 3), (10, 1, False)))
    fixed_blocks = 1

    @staticmethod
    def build_block(label: str, c_in: int, c_out: int, stride: int) -> nn.Module:
        return InvertedResidual(c_in, c_out, stride, *CHOICES[label])

    def build_stem(self, stride: int) -> tuple[nn.Module, int]:
        c = self.channels
        first = ConvNorm(self.image[0], c, 3, stride, nn.ReLU6())
        return nn.Sequential(first, InvertedResidual(c, rounded(c / 2), 1, 3, 1)), rounded(c / 2)

    def head_width(self, c: int) -> int:
        return 4 * c

    def run_block(self, block: nn.Module, x: Tensor, slot: int) -> Tensor:
        p = self.drop_path if self.training else 0.0
        if isinstance(p, Tensor) and p.ndim:  # AutoHAS: one for every block
            p = p[slot]
        return block(x, partial(drop, p=p, generator=self.generator, whole=True))
