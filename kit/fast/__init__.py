"""What makes training on the CPU quicker. Without this room `kit.search.engine` and `kit.augment.policy`, which alone
import from it, do the same in plain torch."""

import contextlib
import ctypes


def keep_freed() -> None:
    """Have glibc keep large blocks that are freed, for the next ones of their size; else every step faults the pages of
    its feature maps in again, which takes a sixth of it at 32×32 pixels. Without glibc nothing happens."""
    with contextlib.suppress(AttributeError, TypeError):  # another C library, or system
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD of malloc.h
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
