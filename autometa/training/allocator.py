"""Memory that training frees is kept for its next step, rather than given back to the system.

By default glibc maps every block above some 100 KB to 32 MB anew and unmaps it when it is freed, so
each step of a convolutional network takes all its activations from the system page by page: in two
searches, half of the processor time was the kernel's (less than 1% without). `mallopt(3)`
has the two numbers that this depends on.
"""

from __future__ import annotations

import ctypes
import functools
import sys

#: numbers of `mallopt` (<malloc.h>): how much free memory at the top of the heap is given back, and
#: how many blocks may be mapped on their own
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = -1


@functools.cache
def keep_freed_memory() -> bool:
    """Ask glibc, once a process, to keep what is freed; False where there is no glibc.

    The process then stays as large as its largest step made it.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
