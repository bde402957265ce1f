"""Has the C library return freed memory to the system, so that a tracker does not grow as connections come and go."""

import ctypes
import os
from typing import Final

_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
"""Parameters of glibc's mallopt(3)."""

LARGE: Final = 128 << 10
"""Bytes from which on a block is mapped by itself, and unmapped when it is freed.

This is glibc's default, but glibc raises its own one when such a block is freed. From then on, blocks of this size lie
among all others, and the memory that they leave is given to others in turn: the 256 KiB of the event loop for a TLS
connection of an extension, large messages, old tables of large dictionaries.
"""

MAX_FREE: Final = 1 << 20
"""Bytes that may stay free at the end of the heap. With glibc's 128 KiB, a busy tracker calls the system more often."""

VARIABLES: Final = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
"""Environment variables with which an operator sets the same parameters."""


def return_freed_memory() -> bool:
    """Set the parameters above for this process. Return False if it has another malloc, or the operator has set any."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or any(name in os.environ for name in VARIABLES):
        return False
    parameters = ((_MMAP_THRESHOLD, LARGE), (_TRIM_THRESHOLD, MAX_FREE))
    return all(mallopt(name, value) for name, value in parameters)
