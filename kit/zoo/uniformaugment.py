"""UniformAugment (LingChen et al. 2020): augmentation without a search, as uniform as can be."""

import torch

from kit.augment import DAAS_OPS, OPS, Draw, Policy, register

IDENTITY = OPS.index("Identity")


@register("uniformaugment", title="UniformAugment")
class UniformAugment(Policy):
    """Two of DAAS's 15 operations, each applied with a probability and at a magnitude that are drawn as well, uniformly
    and for each image anew. No table of the four papers lists it; it is what a learned τ has to beat."""

    def draw(self, n: int) -> Draw:
        uniform = lambda: torch.rand(n, 2, generator=self.generator, device=self.generator.device)
        ops = torch.randint(0, len(DAAS_OPS), (n, 2), generator=self.generator, device=self.generator.device)
        ops = ops + (ops >= IDENTITY)  # which is none of the 15: Invert and Cutout come after it
        probability, level = uniform(), 10 * uniform()
        return self.complete(torch.where(uniform() < probability, ops, IDENTITY), level)
