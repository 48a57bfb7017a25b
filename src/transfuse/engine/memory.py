"""What a process does with memory that torch has freed on the CPU: keep it for the next step."""

from __future__ import annotations

import ctypes
import os

# mallopt(3) of the GNU C library
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER = -1
_LARGEST = (2**30, 2**25)  # bytes; older libraries take no more than the second
_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_")


def keep_freed() -> bool:
    """Tells the GNU C library to keep freed memory instead of giving it back to the system; whether it does.

    A training step frees its activations and asks for as many bytes in the next one. By default the library has given them back by then,
    so that every page is fetched and zeroed anew: 22,000 page faults in a compiled step of ResNet-20, a fifth of its time
    (benchmarks/allocator.py). The process's largest size stays what it was; it is only reached once. Other C libraries have no such
    switch, and a process whose environment sets one of the library's own is left alone.
    """
    given = [name for name in _SETTINGS if name in os.environ]
    if given or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = _function("mallopt")
    if mallopt is None:
        return False
    return any(mallopt(_MMAP_THRESHOLD, size) for size in _LARGEST) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))


def give_back() -> None:
    """Gives what is free back to the system: between jobs nobody needs it."""
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


def _function(name: str) -> ctypes._FuncPointer | None:
    """A function of this process's C library, if it has it."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):  # another C library; none that can be asked (Windows)
        return None
