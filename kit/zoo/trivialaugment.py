"""TrivialAugment (Müller & Hutter 2021), with torchvision's "wide" ranges."""

from typing import Any

import torch

from kit.augment import OPS, Draw, Policy, register

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

    def __init__(self, *at: Any, **given: Any):
        super().__init__(*at, **given)
        # a hair more than the range, so that float32 does not make 31 pixels of 32
        height, width = (min(32, side) / (150 / 331 * side) * (1 + 1e-6) for side in self.image)
        wide = WIDE | {"TranslateX": width, "TranslateY": height}
        self.wide = torch.tensor([wide.get(name, 1.0) for name in OPS], device=self.generator.device)

    def draw(self, n: int) -> Draw:
        ops = torch.randint(0, len(OPS), (n, 1), generator=self.generator, device=self.generator.device)
        level = torch.randint(0, 31, (n, 1), generator=self.generator, device=self.generator.device) / 3
        return self.complete(ops, level * self.wide[ops])
