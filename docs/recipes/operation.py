"""Gamma correction as an operation: kit.Config(plugins="docs/recipes/operation.py", operations="+Gamma", …)"""

import torch

import kit


@kit.augment.register("Gamma", signed=True)
def gamma(images, magnitude, sign):
    """Darker or brighter: v becomes v^γ on [0, 1], with γ from 1 (magnitude 0) to 4 or 1/4 (magnitude 10)."""
    power = 4.0 ** (sign * magnitude / 10)
    return ((images / 255) ** power[:, None, None, None] * 255).round().to(torch.uint8)
