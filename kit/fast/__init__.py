"""Kernels for training on the CPU. kit works without this room: `kit.space.layers` and `kit.augment.policy`, which are
all that import from it, then do the same in plain torch.
"""

from kit.fast.depthwise import dense_gradient, depthwise
from kit.fast.memory import keep_freed
from kit.fast.norm import pixels_at_once, wide_batch_norm
from kit.fast.pools import average_pool, max_pool

__all__ = [
    "average_pool",
    "dense_gradient",
    "depthwise",
    "keep_freed",
    "max_pool",
    "pixels_at_once",
    "wide_batch_norm",
]
