"""Locks between processes that end with the process that holds them, however it ends: who uses a key, who writes, who makes room."""

from __future__ import annotations

import errno
import fcntl
import os
import weakref
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


@contextmanager
def exclusive_if(path: Path, identity: tuple[int, int]) -> Iterator[None]:
    """The same for a file that has to be there and to be this one, so that nobody writes into what was deleted.

    Raises:
        FileNotFoundError: the file was deleted, or another one lies in its place.
    """
    handle = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not is_file(path, identity):
            raise FileNotFoundError(errno.ENOENT, "deleted while in use", str(path))
        yield
    finally:
        os.close(handle)


def identity_of(handle: int) -> tuple[int, int]:
    """What tells an open file from all others, whatever its name."""
    about = os.fstat(handle)
    return about.st_dev, about.st_ino


def is_file(path: Path, identity: tuple[int, int]) -> bool:
    """Whether that file still lies at this path."""
    try:
        about = os.stat(path)
    except OSError:
        return False
    return (about.st_dev, about.st_ino) == identity


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
        if is_file(path, identity_of(handle)):
            return handle
        os.close(handle)


def in_use_unwritten(path: Path) -> int | None:
    """The same where nothing can be written, or nothing is to be; None where there is no file to hold, or no locks on that medium."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
    except OSError:
        os.close(handle)
        return None
    return handle


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


class Claims:
    """Pieces of one work that processes take for themselves, by number; what a process held is free again when it ends.

    Args:
        path: a file that all of them see.

    Raises:
        OSError: it can't be written.
    """

    def __init__(self, path: Path):
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        weakref.finalize(self, os.close, self._handle)

    def take(self, number: int, wait: bool = False) -> bool:
        """Whether the piece is this process's now; `wait` until it is."""
        try:
            fcntl.lockf(self._handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, number)
        except (BlockingIOError, PermissionError):  # which of the two a held piece gives depends on the system
            return False
        return True

    def give_back(self, number: int) -> None:
        """Lets others have it."""
        fcntl.lockf(self._handle, fcntl.LOCK_UN, 1, number)
