"""Locks between processes that end with the process that holds them, however it ends: who uses a key, who writes, who makes room."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Waits until nobody else holds this file, then holds it for the block."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def in_use(path: Path) -> int:
    """Declares a use that others may share; returns a handle, and closing it ends the use.

    Whoever deletes the folder of the file holds it exclusively meanwhile, so the file is looked at again once it is held: it may have been
    deleted while we waited, and then it is made anew.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the folder was deleted in between
            continue
        fcntl.flock(handle, fcntl.LOCK_SH)
        try:
            if os.stat(path).st_ino == os.fstat(handle).st_ino:
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)


@contextmanager
def unused(path: Path) -> Iterator[bool]:
    """Whether nobody uses it; if so nobody can begin to until the block ends."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:  # gone already, or not ours to touch
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        yield False
    else:
        yield True
    finally:
        os.close(handle)
