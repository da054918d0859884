"""How much memory is left, and an early no to what cannot fit.

An allocation that is too large either fails late or, worse, succeeds and swaps until the machine dies. Where the size is
known in advance, it is checked here first. And freed memory is kept for the next allocation, and what is read all the time lies
in large pages.
"""

import os
import sys
import threading

import numpy as np

from minillm.errors import MiniLLMError

ALWAYS_FITS = 2**28  # bytes; below this it is not worth asking the system
LARGE = 2**24  # bytes of a block that small arrays share
CACHE_LINE = 64


def available_bytes() -> int | None:
    """Count the bytes that could be allocated now; None where the platform does not tell."""
    try:
        with open("/proc/meminfo") as info:  # Linux: what is free, and what caches would give back
            return next(int(line.split()[1]) * 1024 for line in info if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows
        return None


def refuse_beyond_memory(nbytes: float, what: str, instead: str = "") -> None:
    """Raise MiniLLMError, with both numbers, where nbytes exceeds the available memory. instead: what the user can do."""
    if nbytes < ALWAYS_FITS:
        return
    available = available_bytes()
    if available is not None and nbytes > available:
        raise MiniLLMError(f"{what} would take {nbytes:,} bytes, {available:,} are available.{' ' * bool(instead)}{instead}")


def keep_freed_memory(size: int = 2**28) -> bool:
    """Ask the C library to keep up to `size` freed bytes at hand, instead of giving large blocks back to the system at once.

    The layers of a prefill take and free the same arrays again and again, a hundred megabytes in all. Given back and taken
    anew, every 4 KB of them costs a page fault, and that is up to a fifth of the time. glibc alone: mallopt(3).
    """
    import ctypes

    trim_threshold, mmap_threshold, largest = -1, -3, 2**25
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(mallopt(trim_threshold, size)) and bool(mallopt(mmap_threshold, largest))


class Carver:
    """Arrays that live long and are read all the time, side by side in blocks of LARGE bytes.

    A processor looks up the place of every page, and has room for few answers: the matrices of a small model lie in twenty
    thousand pages of 4 KB. NumPy asks for pages of 2 MB (Linux: MADV_HUGEPAGE) where an array has 4 MB or more, which such
    matrices have not, so they share an array that has. A block is given back when all arrays in it are.
    """

    def __init__(self) -> None:
        self.block, self.used, self.lock = np.empty(0, np.uint8), 0, threading.Lock()

    def carve(self, size: int) -> np.ndarray:  # bytes -> (size,) uint8, not initialized, from a cache line on
        with self.lock:
            start = self.used + -(self.block.ctypes.data + self.used) % CACHE_LINE
            if start + size > len(self.block):
                self.block = np.empty(max(LARGE, size + CACHE_LINE), np.uint8)
                start = -self.block.ctypes.data % CACHE_LINE
            self.used = start + size
            return self.block[start : self.used]


carve = Carver().carve
