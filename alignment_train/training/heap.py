"""The C library's heap on CPUs: memory freed by one step is reused by the next without a system call."""

import ctypes
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""From glibc's malloc.h."""
MAX_FREE = 1 << 30
"""Bytes that may stay free at the end of the heap."""
MMAP_THRESHOLD = 1 << 28
"""Bytes from which an allocation is mapped separately, and returned when freed."""
GLIBC_MMAP_THRESHOLD = 1 << 25
"""The maximum threshold that glibc chooses itself."""
LARGE_WEIGHT = 1 << 27
"""Bytes of a weight from which GLIBC_MMAP_THRESHOLD is used."""


@cache
def retain_freed_memory(largest_weight: int = 0) -> bool:
    """Keep freed memory in this process, because the kernel clears every page that it hands out.

    With large weights, allocations above GLIBC_MMAP_THRESHOLD are still mapped separately: blocks of hundreds of MiB
    and varying size would fragment the heap, and the kernel's share of the time is negligible.

    Args:
        largest_weight: Bytes of the model's largest weight.

    Returns:
        Whether the C library accepted the setting, which only glibc supports.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(
        mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD if largest_weight < LARGE_WEIGHT else GLIBC_MMAP_THRESHOLD)
        and mallopt(M_TRIM_THRESHOLD, MAX_FREE)
    )
