"""τ: batched image operations, policies that learn and policies that are fixed. Each policy stands in the registry
`AUGMENT`, each operation in `operations()`; `register` adds to both.
"""

from typing import Any

import torch

from kit.augment.gradient import PolicyGradient
from kit.augment.ops import DAAS_OPS, OPERATIONS, OPS, apply_mixed, apply_op, operations
from kit.augment.policy import AUGMENT, Basics, Draw, LearnedPolicy, Plain, Policy, register
from kit.augment.softmax import PairSoftmax


def build(
    name: str,
    generator: torch.Generator,
    image: tuple[int, int],
    *,
    flip: bool = True,
    fill: torch.Tensor | None = None,
    steps: int = 0,
    config: Any = None,
    **options: Any,
) -> Policy:
    """A policy by name.

    image: (H, W), which sets the crop's padding (1/8 of the side) and the cutout (half the side). flip: whether
    mirrored images keep their label. fill: uint8 [C], the cutout's colour. steps: of the search stage. The policy's
    options are those of config, a `kit.Config`, or given by name (`tau_lr=0.1`).
    """
    part, side = AUGMENT[name], min(image)
    given = {**part.settings, **options} if config is None else part.arguments(config)
    cutout = side // 2 if given.pop("cutout", False) else 0
    colour = None if fill is None else fill.to(generator.device)  # once: a copy in every step would wait for the device
    basics = Basics(max(1, side // 8), flip, cutout, colour) if given.pop("basic", True) else Basics()
    return part.make(basics, generator, image=image, steps=steps, **given)


def searched(name: str, wanted: str | None = None) -> tuple[str, ...]:
    """The operations that the policy of this name chooses from, by its option `operations`, which `wanted` is; () for
    one that does not learn. Raises KitError for an operation that does not exist."""
    part = AUGMENT[name]
    return part.make.searched(wanted, part.settings.get("ops")) if part.make.learns else ()
