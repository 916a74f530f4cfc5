"""Policies that do not learn, for comparison, on the same batched operations as the learned ones (METHOD section 1)."""

from __future__ import annotations

from typing import Any

import torch

from kit.augment.ops import OPS, operations
from kit.augment.policy import Basics, Draw, Policy, register

# TrivialAugment's "wide" ranges as multiples of AutoAugment's (Müller & Hutter 2021; torchvision's TrivialAugmentWide).
WIDE = {
    "ShearX": 0.99 / 0.3,
    "ShearY": 0.99 / 0.3,
    "Rotate": 135 / 30,
    "Posterize": 6 / 4,
    **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), 0.99 / 0.9),
}
IDENTITY = OPS.index("Identity")


@register("none", title="No augmentation", basic=False)
@register("flip-crop", title="Flip and crop")
@register("flip-crop-cutout", title="Flip, crop and cutout", cutout=True)
@register("randaugment", title="RandAugment", count=2)
class Uniform(Policy):
    """`count` of the 14 operations, uniformly, beside the basics. RandAugment: two, at magnitude 9 of 30 (Cubuk et al.
    2020; torchvision's defaults)."""

    def __init__(self, basics: Basics, generator: torch.Generator, count: int = 0):
        super().__init__(basics, generator)
        self.count = count

    def draw(self, n: int) -> Draw:
        ops = torch.randint(0, len(OPS), (n, self.count), generator=self.generator, device=self.generator.device)
        return self.complete(ops, torch.full(ops.shape, 3.0, device=ops.device))


@register("autoaugment", title="AutoAugment", cutout=True)
class AutoAugment(Policy):
    """Each image one of the 25 sub-policies learned on CIFAR-10 (Cubuk et al. 2019, Table 7, as torchvision has it),
    each of its operations with its own probability."""

    def __init__(self, basics: Basics, generator: torch.Generator):
        super().__init__(basics, generator)
        from torchvision.transforms import AutoAugment, AutoAugmentPolicy  # takes a second

        table = AutoAugment(AutoAugmentPolicy.CIFAR10).policies
        column = lambda of: torch.tensor([[of(*entry) for entry in pair] for pair in table], device=generator.device)
        self.ops = column(lambda op, chance, level: operations().index(op))
        self.chance = column(lambda op, chance, level: chance)
        self.magnitude = column(lambda op, chance, level: (level or 0) * 10 / 9)

    def draw(self, n: int) -> Draw:
        device = self.generator.device
        which = torch.randint(0, len(self.ops), (n,), generator=self.generator, device=device)
        applied = torch.rand(n, 2, generator=self.generator, device=device) < self.chance[which]
        return self.complete(torch.where(applied, self.ops[which], IDENTITY), self.magnitude[which])


@register("trivialaugment", title="TrivialAugment")
class TrivialAugment(Policy):
    """One of the 14 operations, uniformly, its magnitude on 31 levels of a wide range; translations by up to 32 pixels,
    or by the image's side where that is less."""

    def __init__(self, basics: Basics, generator: torch.Generator, image: tuple[int, int]):
        super().__init__(basics, generator)
        # a hair more than the range, so that float32 does not make 31 pixels of 32
        height, width = (min(32, side) / (150 / 331 * side) * (1 + 1e-6) for side in image)
        wide = WIDE | {"TranslateX": width, "TranslateY": height}
        self.wide = torch.tensor([wide.get(name, 1.0) for name in OPS], device=generator.device)

    @classmethod
    def given(cls, config: Any, image: tuple[int, int], steps: int) -> dict[str, Any]:
        return {"image": image}

    def draw(self, n: int) -> Draw:
        ops = torch.randint(0, len(OPS), (n, 1), generator=self.generator, device=self.generator.device)
        level = torch.randint(0, 31, (n, 1), generator=self.generator, device=self.generator.device) / 3
        return self.complete(ops, level * self.wide[ops])
