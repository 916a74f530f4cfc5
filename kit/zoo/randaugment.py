"""RandAugment (Cubuk et al. 2020)."""

import torch

from kit.augment import OPS, Draw, Policy, register


@register("randaugment", title="RandAugment")
class RandAugment(Policy):
    """Two of the 14 operations, uniformly, at magnitude 9 of 30, as torchvision's defaults have it."""

    def draw(self, n: int) -> Draw:
        ops = torch.randint(0, len(OPS), (n, 2), generator=self.generator, device=self.generator.device)
        return self.complete(ops, torch.full(ops.shape, 3.0, device=ops.device))
