"""The folder of all stores: how much it may take, and who has to go when it is full."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from transfuse.engine.teacher_cache.lock import exclusive, unused
from transfuse.errors import RunError

IN_USE = "in_use"  # a key's file that its users hold; its time is that of the last use
_GONE = ".gone-"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_RESERVING = (errno.EINVAL, errno.EOPNOTSUPP)  # what a file system says that can't reserve


def unheard(text: str) -> None:
    """For stores whose troubles nobody wants to hear of."""


class Room:
    """A folder `answers` with one folder per key, bounded in size.

    Args:
        root: the cache's folder.
        max_bytes: of all keys together; None: as the disk has room.
        say: told what was damaged or deleted and has to be asked for again.
    """

    def __init__(self, root: str | Path, max_bytes: int | None = None, say: Callable[[str], None] = unheard):
        self.folder, self.max_bytes, self.say = Path(root) / "answers", max_bytes, say

    def keys(self) -> list[Path]:
        """Folders of the keys, the one that was not used for longest first."""
        if not self.folder.is_dir():
            return []
        return sorted((path for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith(".")), key=last_use)

    def reserve(self, path: Path, size: int) -> None:
        """Makes a file of one key as large as this, on the disk and not only in name; keys that nobody uses make room for it.

        Raises:
            RunError: it fits neither the bound nor the disk.
            OSError: it can't be written for another reason.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(self.folder / ".room"):
            missing = size - (path.stat().st_size if path.exists() else 0)
            if missing <= 0:
                return  # another process was here first
            self._evict(missing)
            if shutil.disk_usage(self.folder).free < missing:
                raise self._full(missing)
            try:
                with open(path, "ab") as file:
                    _grow(file.fileno(), size)
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                raise self._full(missing) from error

    def _evict(self, wanted: int) -> None:
        if self.max_bytes is None:
            return
        for left_over in self.folder.glob(f"{_GONE}*"):  # somebody was killed while deleting
            shutil.rmtree(left_over, ignore_errors=True)
        sizes = {key: folder_bytes(key) for key in self.keys()}
        for key in list(sizes):
            if sum(sizes.values()) + wanted <= self.max_bytes:
                return
            if drop(key):
                del sizes[key]
        if sum(sizes.values()) + wanted > self.max_bytes:
            needed = in_words(sum(sizes.values()) + wanted)
            what = f"teacher answers in use take {needed}, the cache may take {in_words(self.max_bytes)}"
            raise RunError(what, where="cache.max_bytes", fix="raise cache.max_bytes, use fewer augment.views, or augment.views=fresh")

    def _full(self, size: int) -> RunError:
        fix = "free some space, or set cache.dir=FOLDER; training can go on without a cache with augment.views=fresh"
        return RunError(f"the disk has no room for {in_words(size)} of teacher answers", where=str(self.folder), fix=fix)


def _grow(handle: int, size: int) -> None:
    """Makes a file so large, with blocks of its own where the file system can: writing into a hole on a full disk would kill us."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(handle, 0, size)
            return
        except OSError as error:
            if error.errno not in _NO_RESERVING:
                raise
    os.ftruncate(handle, size)


def drop(key: Path) -> bool:
    """Deletes a key's folder, unless a living process uses it or it is not ours to delete; returns whether it is gone."""
    with unused(key / IN_USE) as free:
        if not free:
            return False
        gone = key.with_name(f"{_GONE}{key.name}-{os.getpid()}")
        try:
            key.rename(gone)  # first out of sight, whole, then deleted
        except OSError:
            return False
        shutil.rmtree(gone, ignore_errors=True)
        return True


def in_words(count: float) -> str:
    """A number of bytes for people, in four digits: 97.66 kB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"


def last_use(key: Path) -> float:
    """Seconds since 1970."""
    try:
        return (key / IN_USE).stat().st_mtime
    except OSError:
        return key.stat().st_mtime if key.exists() else 0.0


def folder_bytes(folder: Path) -> int:
    """Bytes of the files in a folder."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # another process deletes keys, too
            total += path.stat().st_size if path.is_file() else 0
    return total
