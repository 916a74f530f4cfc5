"""AutoAugment (Cubuk et al. 2019): its policy for CIFAR-10."""

from typing import Any

import torch

from kit.augment import OPS, Draw, Policy, operations, register


@register("autoaugment", title="AutoAugment", cutout=True)
class AutoAugment(Policy):
    """Each image one of the 25 sub-policies learned on CIFAR-10 (Table 7, as torchvision has it), each of its
    operations with its own probability."""

    def __init__(self, *at: Any, **given: Any):
        super().__init__(*at, **given)
        from torchvision.transforms import AutoAugment, AutoAugmentPolicy  # takes a second

        table = AutoAugment(AutoAugmentPolicy.CIFAR10).policies
        column = lambda of: torch.tensor(
            [[of(*entry) for entry in pair] for pair in table], device=self.generator.device
        )
        self.ops = column(lambda op, chance, level: operations().index(op))
        self.chance = column(lambda op, chance, level: chance)
        self.magnitude = column(lambda op, chance, level: (level or 0) * 10 / 9)

    def draw(self, n: int) -> Draw:
        device = self.generator.device
        which = torch.randint(0, len(self.ops), (n,), generator=self.generator, device=device)
        applied = torch.rand(n, 2, generator=self.generator, device=device) < self.chance[which]
        ops = torch.where(applied, self.ops[which], OPS.index("Identity"))
        return self.complete(ops, self.magnitude[which])
