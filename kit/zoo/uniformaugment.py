"""UniformAugment (LingChen et al. 2020): augmentation without a search, as uniform as can be."""

import torch

from kit.augment import OPS, Draw, Policy, register


@register("uniformaugment", title="UniformAugment")
class UniformAugment(Policy):
    """Two of the 14 operations, each applied with a probability and at a magnitude that are drawn as well, uniformly
    and for each image anew. No table of the four papers lists it; it is what a learned τ has to beat."""

    def draw(self, n: int) -> Draw:
        uniform = lambda: torch.rand(n, 2, generator=self.generator, device=self.generator.device)
        ops = torch.randint(0, len(OPS), (n, 2), generator=self.generator, device=self.generator.device)
        probability, level = uniform(), 10 * uniform()
        return self.complete(torch.where(uniform() < probability, ops, OPS.index("Identity")), level)
