"""τ: batched image operations, policies that learn and policies that are fixed. A policy is added by one entry in
`AUGMENT`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from kit import errors
from kit.augment.fixed import AutoAugment, NoOps, RandAugment, TrivialAugment
from kit.augment.gradient import PolicyGradient
from kit.augment.ops import ALL_OPS, DAAS_OPS, OPS, apply_mixed, apply_op
from kit.augment.policy import Basics, Draw, PairSoftmax, Policy

SMALL_OPS = ("ShearX", "ShearY", "TranslateX", "TranslateY")  # DiffAutoML's Table 3


@dataclass(frozen=True)
class Settings:
    """What a policy is made from. image: (H, W); lr: of a policy that learns; shared: DAAS draws one policy per batch,
    as in its paper.
    """

    basics: Basics
    generator: torch.Generator
    image: tuple[int, int]
    lr: float = 0.0
    shared: bool = False


@dataclass(frozen=True)
class Entry:
    """kind: for what it needs; build: from its settings; cutout: its recipe has one; learns: it is searched."""

    kind: type[Policy]
    build: Callable[[Settings], Policy]
    cutout: bool = False
    learns: bool = False


AUGMENT: Mapping[str, Entry] = {
    "none": Entry(NoOps, lambda s: NoOps(Basics(), s.generator)),
    "flip-crop": Entry(NoOps, lambda s: NoOps(s.basics, s.generator)),
    "flip-crop-cutout": Entry(NoOps, lambda s: NoOps(s.basics, s.generator), cutout=True),
    "autoaugment": Entry(AutoAugment, lambda s: AutoAugment(s.basics, s.generator), cutout=True),
    "randaugment": Entry(RandAugment, lambda s: RandAugment(s.basics, s.generator)),
    "trivialaugment": Entry(TrivialAugment, lambda s: TrivialAugment(s.basics, s.generator, s.image)),
    "pair-softmax": Entry(PairSoftmax, lambda s: PairSoftmax(s.basics, s.generator, lr=s.lr), learns=True),
    "pair-softmax-4": Entry(
        PairSoftmax, lambda s: PairSoftmax(s.basics, s.generator, lr=s.lr, ops=SMALL_OPS), learns=True
    ),
    "policy-gradient": Entry(
        PolicyGradient, lambda s: PolicyGradient(s.basics, s.generator, lr=s.lr, shared=s.shared), learns=True
    ),
}


def build(
    name: str,
    generator: torch.Generator,
    image: tuple[int, int],
    *,
    flip: bool = True,
    lr: float = 0.0,
    fill: torch.Tensor | None = None,
    shared: bool = False,
) -> Policy:
    """A policy by name.

    image: (H, W), which sets the crop's padding (1/8 of the side, 4 pixels at 32²) and the cutout (half the side, 16 at
    32²). flip:
    whether mirrored images keep their label. lr: step size of a policy that learns. fill: uint8 [C], the cutout's
    colour. shared: see
    `Settings`.
    """
    if name not in AUGMENT:
        raise errors.unknown("augmentation policy", name, AUGMENT)
    side, fill = (
        min(image),
        None if fill is None else fill.to(generator.device),
    )  # once: a copy in every step would wait for the device
    basics = Basics(pad=max(1, side // 8), flip=flip, cutout=side // 2 if AUGMENT[name].cutout else 0, fill=fill)
    return AUGMENT[name].build(Settings(basics, generator, image, lr, shared))


__all__ = [
    "ALL_OPS",
    "AUGMENT",
    "Basics",
    "DAAS_OPS",
    "Draw",
    "Entry",
    "OPS",
    "PairSoftmax",
    "Policy",
    "PolicyGradient",
    "SMALL_OPS",
    "Settings",
    "apply_mixed",
    "apply_op",
    "build",
]
