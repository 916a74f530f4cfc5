"""TrivialAugment (Müller & Hutter 2021), with torchvision's "wide" ranges."""

from __future__ import annotations

from typing import Any

import torch

from kit.augment import OPS, Basics, Draw, Policy, register

# the wide ranges as multiples of AutoAugment's
WIDE = {
    "ShearX": 0.99 / 0.3,
    "ShearY": 0.99 / 0.3,
    "Rotate": 135 / 30,
    "Posterize": 6 / 4,
    **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), 0.99 / 0.9),
}


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
