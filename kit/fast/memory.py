"""How the process holds its memory."""

from __future__ import annotations

import ctypes
import functools
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


@functools.cache
def keep_freed() -> None:
    """Have glibc keep large blocks that are freed, for the next ones of their size.

    By default it gives them back to the kernel, and a training step on the CPU then faults the pages of its feature
    maps in again, several ten thousand times: a sixth of a step at 32×32 pixels. Without glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return
    mallopt(M_MMAP_THRESHOLD, 2**30)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
