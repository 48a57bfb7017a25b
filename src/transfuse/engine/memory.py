"""What a process does with memory that torch has freed on the CPU: keep it for the next step."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# mallopt(3) of the GNU C library
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER = -1
_LARGEST = (2**30, 2**25)  # bytes; older libraries take no more than the second
_USUAL = 2**25  # as far as the library itself raises the second threshold; it keeps the first at twice that
_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_")


@contextmanager
def kept(device: torch.device) -> Iterator[None]:
    """Keeps freed memory while a network trains on a CPU, however that ends."""
    if device.type != "cpu":
        yield
        return
    keep_freed()
    try:
        yield
    finally:
        give_back()


def keep_freed() -> bool:
    """Tells the GNU C library to keep freed memory instead of giving it back to the system; whether it does.

    A training step frees its activations and asks for as many bytes in the next one. By default the library has given them back by then,
    so that every page is fetched and zeroed anew: 20,000 page faults in a compiled step of ResNet-20, a quarter of its time
    (benchmarks/allocator.py); how many depends on what else lies in memory. The process's largest size stays about what it was. Other C
    libraries have no such switch, and a process whose environment sets one of the library's own is left alone.
    """
    return any(_set(_MMAP_THRESHOLD, size) for size in _LARGEST) and _set(_TRIM_THRESHOLD, _NEVER)


def give_back() -> None:
    """Gives what is free back to the system, and lets the library do so by itself again: the process may go on with other things."""
    if _set(_MMAP_THRESHOLD, _USUAL) and _set(_TRIM_THRESHOLD, 2 * _USUAL):
        trim = _function("malloc_trim")
        if trim is not None:
            trim(0)


def _set(option: int, value: int) -> bool:
    if any(name in os.environ for name in _SETTINGS) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = _function("mallopt")
    return mallopt is not None and bool(mallopt(option, value))


def _function(name: str) -> ctypes._FuncPointer | None:
    """A function of this process's C library, if it has it."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):  # another C library; none that can be asked (Windows)
        return None
