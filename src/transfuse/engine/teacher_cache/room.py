"""The folder of all stores: how much it may take, and who has to go when it is full."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from transfuse.engine.teacher_cache.lock import exclusive, unused
from transfuse.errors import RunError

IN_USE = "in_use"  # a key's file that its users hold; its time is that of the last use
_GONE = ".gone-"


class Room:
    """A folder `answers` with one folder per key, bounded in size.

    Args:
        root: the cache's folder.
        max_bytes: of all keys together; None: as the disk has room.
    """

    def __init__(self, root: str | Path, max_bytes: int | None = None):
        self.folder, self.max_bytes = Path(root) / "answers", max_bytes

    def keys(self) -> list[Path]:
        """Folders of the keys, the one that was not used for longest first."""
        if not self.folder.is_dir():
            return []
        return sorted((path for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith(".")), key=last_use)

    def reserve(self, path: Path, size: int) -> None:
        """Makes a file of one key as large as this, on the disk and not only in name; keys that nobody uses make room for it.

        Raises:
            RunError: it fits neither the bound nor the disk.
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
                    if hasattr(os, "posix_fallocate"):  # writing into a hole of a mapped file on a full disk would kill the process
                        os.posix_fallocate(file.fileno(), 0, size)
                    else:
                        file.truncate(size)
            except OSError as error:
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
            needed = (sum(sizes.values()) + wanted) / 1e6
            what = f"teacher answers in use take {needed:.1f} MB, the cache may take {self.max_bytes / 1e6:.1f} MB"
            raise RunError(what, where="cache.max_bytes", fix="raise cache.max_bytes, use fewer augment.views, or augment.views=fresh")

    def _full(self, size: int) -> RunError:
        fix = "free some space, or set cache.dir=FOLDER; training can go on without a cache with augment.views=fresh"
        return RunError(f"the disk has no room for {size / 1e6:.0f} MB of teacher answers", where=str(self.folder), fix=fix)


def drop(key: Path) -> bool:
    """Deletes a key's folder, unless a living process uses it; returns whether it is gone."""
    with unused(key / IN_USE) as free:
        if not free:
            return False
        gone = key.with_name(f"{_GONE}{key.name}-{os.getpid()}")
        key.rename(gone)  # first out of sight, whole, then deleted
        shutil.rmtree(gone, ignore_errors=True)
        return True


def last_use(key: Path) -> float:
    """Seconds since 1970."""
    try:
        return (key / IN_USE).stat().st_mtime
    except OSError:
        return key.stat().st_mtime if key.exists() else 0.0


def folder_bytes(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
