"""τ: batched image operations, policies that learn and policies that are fixed."""

from __future__ import annotations

from typing import Callable, Mapping

import torch

from kit import errors
from kit.augment.fixed import AutoAugment, NoOps, RandAugment, TrivialAugment
from kit.augment.ops import ALL_OPS, DAAS_OPS, OPS, apply_mixed, apply_op
from kit.augment.policy import Basics, Draw, PairSoftmax, Policy

# name → (policy from its basics, generator, image size and τ's step size, whether the recipe has a cutout)
Builder = Callable[[Basics, torch.Generator, tuple[int, int], float], Policy]
AUGMENT: Mapping[str, Builder] = {
    "none": lambda basics, generator, image, lr: NoOps(Basics(), generator),
    "flip-crop": lambda basics, generator, image, lr: NoOps(basics, generator),
    "flip-crop-cutout": lambda basics, generator, image, lr: NoOps(basics, generator),
    "autoaugment": lambda basics, generator, image, lr: AutoAugment(basics, generator),
    "randaugment": lambda basics, generator, image, lr: RandAugment(basics, generator),
    "trivialaugment": lambda basics, generator, image, lr: TrivialAugment(basics, generator, image),
    "pair-softmax": lambda basics, generator, image, lr: PairSoftmax(basics, generator, lr=lr),
}
WITH_CUTOUT = frozenset({"flip-crop-cutout", "autoaugment"})


def build(name: str, generator: torch.Generator, image: tuple[int, int], *, flip: bool = True, lr: float = 0.0,
          fill: torch.Tensor | None = None) -> Policy:  # fmt: skip
    """A policy by name.

    image: (H, W), which sets the crop's padding (1/8 of the side, 4 pixels at 32²) and the cutout (half the side, 16 at 32²). flip:
    whether mirrored images keep their label. lr: step size of a policy that learns. fill: uint8 [C], the cutout's colour.
    """
    if name not in AUGMENT:
        raise errors.unknown("augmentation policy", name, AUGMENT)
    side = min(image)
    basics = Basics(pad=max(1, side // 8), flip=flip, cutout=side // 2 if name in WITH_CUTOUT else 0, fill=fill)
    return AUGMENT[name](basics, generator, image, lr)


__all__ = ["ALL_OPS", "AUGMENT", "Basics", "DAAS_OPS", "Draw", "OPS", "PairSoftmax", "Policy", "apply_mixed", "apply_op", "build"]
