"""Answers under one key: rows of every view, in shards, memory-mapped, shared by all processes that use the key."""

from __future__ import annotations

import json
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from transfuse.core.atomic import replacing
from transfuse.engine.teacher_cache.lock import exclusive, in_use
from transfuse.engine.teacher_cache.room import IN_USE, Room
from transfuse.engine.teacher_cache.shard import Shard, file_bytes
from transfuse.errors import RunError

FORMAT = 2  # of the files; part of the key, so that an older cache is not misread
SHARD_BYTES = 64 * 2**20
ABOUT = "about.json"


def rows_per_shard(row_bytes: int) -> int:
    """A power of two, so that a shard takes at most 64 MiB, or at least one row."""
    return 2 ** max(0, (SHARD_BYTES // max(row_bytes, 1)).bit_length() - 1)


class Store:
    """answers[view][row] -> bytes, for one key.

    While the object lives nobody evicts the key. Any number of processes may read and write at the same time.

    Args:
        room: where, and how much.
        key: see key.py.
        rows: samples in the pool.
        row_bytes: of one answer.
        about: what the key means, kept beside the data for listings.
        shard_rows: rows per file; None: as `rows_per_shard` says.
        counts: whether opening it is a use, which protects it from eviction later on.

    Raises:
        RunError: the folder can't be written.
    """

    def __init__(
        self,
        room: Room,
        key: str,
        rows: int,
        row_bytes: int,
        about: dict[str, Any] | None = None,
        shard_rows: int | None = None,
        counts: bool = True,
    ):
        self.room, self.folder, self.rows, self.row_bytes = room, room.folder / key, rows, row_bytes
        self.shard_rows = shard_rows or rows_per_shard(row_bytes)
        self._shards: dict[tuple[int, int], Shard] = {}
        try:
            weakref.finalize(self, os.close, in_use(self.folder / IN_USE))
            if counts:
                os.utime(self.folder / IN_USE)
            if about is not None:
                self._describe(about)
        except OSError as error:
            raise _unusable(error, self.folder, "written") from error

    @classmethod
    def of(cls, key: Path) -> Store:
        """The store in a folder, as it describes itself; looking at it is no use of it.

        Raises:
            RunError: it doesn't, or it is of another format.
        """
        try:
            layout = json.loads((key / ABOUT).read_text(encoding="utf-8"))["layout"]
            if layout["format"] != FORMAT:
                raise ValueError(f"format {layout['format']}")
            sizes = [int(layout[name]) for name in ("rows", "row_bytes", "shard_rows")]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError("not a teacher cache of this version", where=str(key), fix=f"transfuse cache clear {key.name}") from error
        return cls(Room(key.parent.parent), key.name, sizes[0], sizes[1], shard_rows=sizes[2], counts=False)

    def _describe(self, about: dict[str, Any]) -> None:
        layout = {"format": FORMAT, "rows": self.rows, "row_bytes": self.row_bytes, "shard_rows": self.shard_rows}
        with exclusive(self.room.folder / ".room"):
            if not (self.folder / ABOUT).exists():
                with replacing(self.folder / ABOUT) as temporary:
                    temporary.write_text(json.dumps({"layout": layout, **about}, indent=2, default=str), encoding="utf-8")

    def read(self, view: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [n, row_bytes] and bool [n]: which of them are there and whole."""
        numbers = rows // self.shard_rows
        if len(rows) and (numbers == numbers[0]).all():
            shard = self.shard(view, int(numbers[0]))
            if shard is not None:
                return shard.read(rows)
        values, known = np.zeros((len(rows), self.row_bytes), np.uint8), np.zeros(len(rows), bool)
        for number in np.unique(numbers):
            shard = self.shard(view, int(number))
            if shard is not None:
                places = np.flatnonzero(numbers == number)
                values[places], known[places] = shard.read(rows[places])
        return values, known

    def write(self, view: int, rows: np.ndarray, values: np.ndarray) -> None:
        """Stores rows that are not there yet; what another process has stored in the meantime stays."""
        numbers = rows // self.shard_rows
        for number in np.unique(numbers):
            shard = self.shard(view, int(number), create=True)
            assert shard is not None
            places = np.flatnonzero(numbers == number)
            shard.write(rows[places], values[places])

    def lacks(self, view: int, rows: np.ndarray) -> np.ndarray:
        """bool [n]: where nothing was stored. Quick: damage is only seen by `read`."""
        numbers, lacking = rows // self.shard_rows, np.ones(len(rows), bool)
        for number in np.unique(numbers):
            shard = self.shard(view, int(number))
            if shard is not None:
                places = np.flatnonzero(numbers == number)
                lacking[places] = shard.sums[rows[places] - shard.first] == 0
        return lacking

    def views(self) -> list[int]:
        """Views of which there is anything."""
        return sorted({int(path.parent.name.removeprefix("view_")) for path in self.folder.glob("view_*/*.rows")})

    def shards(self, view: int) -> list[Shard]:
        """The files of a view that are there."""
        found = (self.shard(view, number) for number in range(-(-self.rows // self.shard_rows)))
        return [shard for shard in found if shard is not None]

    def shard(self, view: int, number: int, create: bool = False) -> Shard | None:
        """One file, mapped; None where it is not there and is not to be made.

        Raises:
            RunError: it can't be opened, or there is no room for it.
        """
        shard = self._shards.get((view, number))
        if shard is not None:
            return shard
        path = self.folder / f"view_{view}" / f"{number:06d}.rows"
        first = number * self.shard_rows
        rows = min(self.shard_rows, self.rows - first)
        try:
            size = path.stat().st_size if path.exists() else None
            if size is None and not create:
                return None
            if size is None or size < file_bytes(rows, self.row_bytes):  # one that was cut off reads as damaged behind the cut
                self.room.reserve(path, file_bytes(rows, self.row_bytes))
            shard = self._shards[view, number] = Shard(path, first, rows, self.row_bytes)
        except OSError as error:
            raise _unusable(error, path, "opened") from error
        return shard


def _unusable(error: OSError, path: Path, what: str) -> RunError:
    fix = "set cache.dir=FOLDER to a place with space and permission, or delete this folder of the cache"
    return RunError(f"the teacher cache can't be {what}: {error.strerror or error}", where=str(path), fix=fix)
