"""Kernels for training on the CPU. kit works without this room: `kit.space.layers` and `kit.augment.policy`, which are
all that import from it, then do the same in plain torch."""

import contextlib
import ctypes

from kit.fast.depthwise import average_pool, dense_gradient, depthwise, max_pool
from kit.fast.norm import pixels_at_once, wide_batch_norm

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed() -> None:
    """Have glibc keep large blocks that are freed, for the next ones of their size.

    By default it gives them back to the kernel, and a training step on the CPU then faults the pages of its feature
    maps in again, several ten thousand times: a sixth of a step at 32×32 pixels. Without glibc nothing happens."""
    with contextlib.suppress(AttributeError, TypeError):  # another C library, or system
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
