"""Policies that do not learn, for comparison, on the same batched operations as the learned ones (METHOD section 1)."""

from __future__ import annotations

from typing import Any

import torch

from kit.augment.ops import OPS, operations
from kit.augment.policy import Basics, Draw, Policy, register

# Learned on CIFAR-10 (Cubuk et al. 2019, Table 7): two (operation, probability, magnitude in ninths of the range) per
# sub-policy.
AUTOAUGMENT_CIFAR10 = (
    (("Invert", 0.1, 0), ("Contrast", 0.2, 6)), (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)), (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 0), ("Equalize", 0.9, 0)), (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)), (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 0), ("Equalize", 0.5, 0)), (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)), (("Equalize", 0.3, 0), ("AutoContrast", 0.4, 0)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)), (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 0)), (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.2, 0), ("Equalize", 0.6, 0)), (("Color", 0.9, 9), ("Equalize", 0.6, 0)),
    (("AutoContrast", 0.8, 0), ("Solarize", 0.2, 8)), (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 0)), (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 0), ("Solarize", 0.8, 3)), (("Equalize", 0.8, 0), ("Invert", 0.1, 0)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 0)),
)  # fmt: skip

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
class NoOps(Policy):
    """The basics alone, if any."""

    def draw(self, n: int) -> Draw:
        empty = torch.zeros(n, 0, dtype=torch.int64, device=self.generator.device)
        return self.complete(empty, empty.float())


@register("autoaugment", title="AutoAugment", cutout=True)
class AutoAugment(Policy):
    """Each image one of the 25 CIFAR-10 sub-policies, each of its operations with its own probability."""

    def __init__(self, basics: Basics, generator: torch.Generator):
        super().__init__(basics, generator)
        table = [[(operations().index(op), p, level * 10 / 9) for op, p, level in pair] for pair in AUTOAUGMENT_CIFAR10]
        self.ops, self.chance, self.magnitude = (
            torch.tensor([[e[i] for e in pair] for pair in table], device=generator.device) for i in range(3)
        )

    def draw(self, n: int) -> Draw:
        device = self.generator.device
        which = torch.randint(0, len(self.ops), (n,), generator=self.generator, device=device)
        applied = torch.rand(n, 2, generator=self.generator, device=device) < self.chance[which]
        return self.complete(torch.where(applied, self.ops[which], IDENTITY), self.magnitude[which])


@register("randaugment", title="RandAugment")
class RandAugment(Policy):
    """Two of the 14 operations, uniformly, at one magnitude: 9 of 30 (Cubuk et al. 2020; torchvision's defaults)."""

    def draw(self, n: int) -> Draw:
        ops = torch.randint(0, len(OPS), (n, 2), generator=self.generator, device=self.generator.device)
        return self.complete(ops, torch.full(ops.shape, 3.0, device=ops.device))


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
