"""Policies that do not learn and draw no operation: what the presets train with where τ is not searched."""

from __future__ import annotations

import torch

from kit.augment.policy import Draw, Policy, register


@register("none", title="No augmentation", basic=False)
@register("flip-crop", title="Flip and crop")
@register("flip-crop-cutout", title="Flip, crop and cutout", cutout=True)
class Plain(Policy):
    """The basics alone."""

    def draw(self, n: int) -> Draw:
        device = self.generator.device
        return self.complete(torch.empty(n, 0, dtype=torch.int64, device=device), torch.empty(n, 0, device=device))
