"""τ: batched image operations and policies. `register` adds operations to `OPERATIONS`, policies to `AUGMENT`."""

from torch import Tensor

from kit.augment.gradient import PolicyGradient
from kit.augment.module import Augment
from kit.augment.ops import DAAS_OPS, OPERATIONS, OPS, apply_mixed, apply_op, operations
from kit.augment.policy import AUGMENT, Basics, Draw, LearnedPolicy, Plain, Policy, build, register
from kit.augment.softmax import PairSoftmax


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
