"""τ: batched image operations and policies. `register` adds operations to `OPERATIONS`, policies to `AUGMENT`."""

from typing import Any

from torch import Generator, Tensor

from kit.augment.gradient import PolicyGradient
from kit.augment.ops import DAAS_OPS, OPERATIONS, OPS, apply_mixed, apply_op, operations
from kit.augment.policy import AUGMENT, Basics, Draw, LearnedPolicy, Plain, Policy, register
from kit.augment.softmax import PairSoftmax


def build(name: str, generator: Generator, image: tuple[int, int], *, flip=True, fill=None, **options: Any) -> Policy:
    """A policy by name.

    image: (H, W), which sets the crop's padding (1/8 of the side) and the cutout (half the side). flip: whether
    mirrored images keep their label. fill: uint8 [C], the cutout's colour. options: the policy's, by name
    (`tau_lr=0.1`), and steps, of the search stage."""
    part, side, given = AUGMENT[name], min(image), {**AUGMENT[name].settings, **options}
    cutout = side // 2 if given.pop("cutout", False) else 0
    colour = None if fill is None else fill.to(generator.device)  # once: a copy in every step would wait for the device
    basics = Basics(max(1, side // 8), flip, cutout, colour) if given.pop("basic", True) else Basics()
    return part.make(basics, generator, image=image, **given)


def searched(name: str, wanted: str | None = None) -> tuple[str, ...]:
    """The operations of the policy of this name, where its option `operations` is `wanted`; () for one that does not
    learn. Raises KitError for an operation that does not exist."""
    part = AUGMENT[name]
    return part.make.searched(wanted, part.settings.get("ops")) if part.make.learns else ()


def idle(names: tuple[str, ...], images: Tensor) -> list[str]:
    """Those of these operations, but Identity, that change none of 1,024 of the images (uint8 [N, C, H, W]), evenly
    spread, at half or full magnitude, as Color does on grey ones: a policy cannot learn anything about them."""
    parts = images[:: -(-len(images) // 1024)].split(64)  # most operations change something of the first part
    tried = [(part, magnitude, sign) for part in parts for magnitude in (5, 10) for sign in (-1, 1)]
    unchanged = lambda name: all(apply_op(name, part, *how).equal(part) for part, *how in tried)
    return [name for name in names if name != "Identity" and unchanged(name)]
