"""Parameters and multiply-adds of a module, counted on the meta device: nothing is computed and no memory is taken."""

from __future__ import annotations

import copy
from math import prod

import torch
from torch import Tensor, nn

from kit.space.network import Cost


def measure(module: nn.Module, shape: tuple[int, ...]) -> tuple[Cost, tuple[int, ...]]:
    """Cost of `module` on one input of `shape` [C, H, W], and the output's shape.

    Multiply-adds are those of convolutions and linear layers, the usual convention of the NAS literature; parameters
    are all of
    them, also those whose training has not begun (an operation's affine part before its node freezes).
    """
    twin = copy.deepcopy(module).to("meta").eval()
    macs = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        macs += prod(output.shape[1:]) * prod(layer.weight.shape[1:])

    for layer in twin.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(count)
    with torch.no_grad():
        output = twin(torch.empty((1, *shape), device="meta"))
    params = sum(p.numel() for p in twin.parameters())
    return Cost(params, macs), tuple(output.shape[1:])


def total(costs: list[Cost]) -> Cost:
    return Cost(sum(c.params for c in costs), sum(c.macs for c in costs))
