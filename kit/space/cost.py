"""Parameters and multiply-adds of a child's modules, counted on the meta device: nothing is computed, no memory taken."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kit.space.child import Child, Cost

if TYPE_CHECKING:
    from kit.space.network import Network


@torch.no_grad()
def measure(network: Network, child: Child, modules: list[nn.Module]) -> dict[nn.Module, Cost]:
    """What each of `modules` costs in a forward pass of the child in evaluation mode; what does not run costs nothing.

    Multiply-adds are those of convolutions and linear layers, as usual in the NAS literature; parameters are all of
    them, also those whose training has not begun (an operation's affine part before its node freezes).
    """
    ran: dict[nn.Module, Cost] = {}

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        multiplies = isinstance(layer, (nn.Conv2d, nn.Linear))
        macs = prod(output.shape[1:]) * prod(layer.weight.shape[1:]) if multiplies else 0
        ran[layer] = Cost(sum(p.numel() for p in layer.parameters(recurse=False)), macs)

    parts = {part for module in modules for part in module.modules()}
    hooks = [part.register_forward_hook(count) for part in parts]
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    training, amp, network.amp_dtype = network.training, network.amp_dtype, None
    try:
        image = torch.empty((1, *network.image), device="meta")
        torch.func.functional_call(network.eval(), shapes, (image, child))
    finally:
        network.train(training).amp_dtype = amp
        for hook in hooks:
            hook.remove()
    return {module: total([ran[part] for part in module.modules() if part in ran]) for module in modules}


def total(costs: list[Cost]) -> Cost:
    return Cost(sum(cost.params for cost in costs), sum(cost.macs for cost in costs))
