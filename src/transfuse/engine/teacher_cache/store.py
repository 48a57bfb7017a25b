"""Answers under one key: rows of every view, in shards, memory-mapped, shared by all processes that use the key."""

from __future__ import annotations

import errno
import json
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from transfuse.core.atomic import replacing
from transfuse.engine.teacher_cache.lock import Claims, exclusive, identity_of, in_use, in_use_unwritten, is_file
from transfuse.engine.teacher_cache.room import IN_USE, Room
from transfuse.engine.teacher_cache.shard import Shard, file_bytes
from transfuse.errors import RunError

FORMAT = 3  # of the files; part of the key, so that an older cache is not misread
SHARD_BYTES = 64 * 2**20
ABOUT = "about.json"
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_ATTEMPTS = 3  # at writing rows of a key that somebody deletes meanwhile


def rows_per_shard(row_bytes: int) -> int:
    """A power of two, so that a shard takes at most 64 MiB, or at least one row."""
    return 2 ** max(0, (SHARD_BYTES // max(row_bytes, 1)).bit_length() - 1)


class Store:
    """answers[view][row] -> bytes, for one key.

    While the object lives nobody evicts the key. Any number of processes may read and write at the same time. A key that is deleted
    nevertheless is begun anew by the next write. On a medium that can't be written a key is read only.

    Args:
        room: where, and how much.
        key: see key.py.
        rows: samples in the pool.
        row_bytes: of one answer.
        about: what the key means, kept beside the data for listings.
        shard_rows: rows per file; None: as `rows_per_shard` says.
        looks: to look at it only: nothing is written, and it is no use, which would protect the key from eviction later on.

    Attributes:
        writable: whether rows can be added.

    Raises:
        RunError: there is no such key, and it can't be made.
    """

    def __init__(
        self,
        room: Room,
        key: str,
        rows: int,
        row_bytes: int,
        about: dict[str, Any] | None = None,
        shard_rows: int | None = None,
        looks: bool = False,
    ):
        self.room, self.folder, self.rows, self.row_bytes = room, room.folder / key, rows, row_bytes
        self.shard_rows = shard_rows or rows_per_shard(row_bytes)
        self.writable, self._about = not looks, about
        self._shards: dict[tuple[int, int], Shard] = {}
        self._told: set[Path] = set()  # shards whose damage was said aloud
        self._handle: int | None = None
        self._leave: Callable[[], object] = lambda: None
        self._enter()

    @classmethod
    def of(cls, key: Path, looks: bool = True) -> Store:
        """The store in a folder, as it describes itself.

        Raises:
            RunError: it doesn't, it is of another format, or it can't be read.
        """
        try:
            layout = json.loads((key / ABOUT).read_text(encoding="utf-8"))["layout"]
            if layout["format"] != FORMAT:
                raise ValueError(f"format {layout['format']}")
            sizes = [int(layout[name]) for name in ("rows", "row_bytes", "shard_rows")]
        except PermissionError as error:
            raise RunError(f"can't be read: {error.strerror}", where=str(key), fix="ask its owner for permission to read it") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError("not a teacher cache of this version", where=str(key), fix=f"transfuse cache clear {key.name}") from error
        return cls(Room(key.parent.parent), key.name, sizes[0], sizes[1], shard_rows=sizes[2], looks=looks)

    def _enter(self) -> None:
        """Declares the use and says what the key means; again where somebody has deleted what said so."""
        place = self.folder / IN_USE
        if self._handle is not None and is_file(place, identity_of(self._handle)):
            return
        self._leave()
        try:
            self._handle = in_use(place) if self.writable else in_use_unwritten(place)
            if self.writable:
                os.utime(place)
                self._describe()
        except OSError as error:
            if error.errno not in READ_ONLY or not (self.folder / ABOUT).exists():
                raise _unusable(error, self.folder, "written") from error
            self.writable, self._handle = False, in_use_unwritten(place)
        if self._handle is not None:
            self._leave = weakref.finalize(self, os.close, self._handle)

    def _describe(self) -> None:
        """Writes down what the key means, where that is not written yet or was damaged."""
        if self._about is None:
            return
        layout = {"format": FORMAT, "rows": self.rows, "row_bytes": self.row_bytes, "shard_rows": self.shard_rows}
        with exclusive(self.room.folder / ".room"):
            try:
                whole = json.loads((self.folder / ABOUT).read_text(encoding="utf-8"))["layout"] == layout
            except (FileNotFoundError, ValueError, KeyError, TypeError):
                whole = False
            if not whole:
                with replacing(self.folder / ABOUT) as temporary:
                    temporary.write_text(json.dumps({"layout": layout, **self._about}, indent=2, default=str), encoding="utf-8")

    def read(self, view: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [n, row_bytes] and bool [n]: which of them are there and whole."""
        numbers = rows // self.shard_rows
        if len(rows) and (numbers == numbers[0]).all():
            shard = self.shard(view, int(numbers[0]))
            if shard is not None:
                return self._read(shard, rows)
        values, known = np.zeros((len(rows), self.row_bytes), np.uint8), np.zeros(len(rows), bool)
        for number in np.unique(numbers):
            shard = self.shard(view, int(number))
            if shard is not None:
                places = np.flatnonzero(numbers == number)
                values[places], known[places] = self._read(shard, rows[places])
        return values, known

    def _read(self, shard: Shard, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = shard.read(rows)
        if shard.hurt and shard.path not in self._told:
            self._told.add(shard.path)
            what = f"{shard.path}: {len(shard.damaged()):,} of the teacher's stored answers are damaged; they are not used"
            self.room.say(f"{what} and are asked for again" if self.writable else what)
        return found

    def write(self, view: int, rows: np.ndarray, values: np.ndarray) -> None:
        """Stores rows that are not there yet; what another process has stored in the meantime stays.

        Raises:
            RunError: they can't be written, or there is no room for them.
        """
        if not self.writable:
            fix = "set cache.dir=FOLDER to one that can be written; or fill this one where it can be: transfuse cache fill RECIPE.YAML"
            what = f"the teacher cache can't be written, and {len(rows)} or more answers are not in it"
            raise RunError(what, where=str(self.folder), fix=fix)
        numbers = rows // self.shard_rows
        for number in np.unique(numbers):
            places = np.flatnonzero(numbers == number)
            self._write(view, int(number), rows[places], values[places])

    def _write(self, view: int, number: int, rows: np.ndarray, values: np.ndarray) -> None:
        """Writes into one shard; a shard that was deleted while it was open is made anew."""
        for _ in range(_ATTEMPTS):
            shard = self.shard(view, number, create=True)
            assert shard is not None
            try:
                shard.write(rows, values)
                return
            except FileNotFoundError:
                self._shards = {place: known for place, known in self._shards.items() if known.is_there()}
                self.room.say(f"{self.folder}: was deleted while it was used; what is missing is asked for again")
            except OSError as error:
                raise _unusable(error, shard.path, "written") from error
        fix = "see what deletes it, or set cache.dir=FOLDER to a place of its own; then resume"
        raise RunError("the teacher cache is deleted again and again while it is used", where=str(self.folder), fix=fix)

    def lacks(self, view: int, rows: np.ndarray) -> np.ndarray:
        """bool [n]: where nothing was stored. Quick: damage is only seen by `read`."""
        numbers, lacking = rows // self.shard_rows, np.ones(len(rows), bool)
        for number in np.unique(numbers):
            shard = self.shard(view, int(number))
            if shard is not None:
                places = np.flatnonzero(numbers == number)
                lacking[places] = shard.sums[rows[places] - shard.first] == 0
        return lacking

    def claims(self) -> Claims | None:
        """Pieces of the key's filling, of which processes take turns; None where nothing can be written."""
        try:
            return Claims(self.folder / "claims") if self.writable else None
        except OSError as error:
            raise _unusable(error, self.folder, "written") from error

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
            if self.writable and (size is None or size < file_bytes(rows, self.row_bytes)):  # what was cut off reads as damaged there
                self._enter()
                self.room.reserve(path, file_bytes(rows, self.row_bytes))
            place = f"{self.folder.name}/{view}"
            shard = self._shards[view, number] = Shard(path, first, rows, self.row_bytes, place, self.writable)
        except OSError as error:
            raise _unusable(error, path, "opened") from error
        return shard


def _unusable(error: OSError, path: Path, what: str) -> RunError:
    fix = "set cache.dir=FOLDER to a place with space and permission, or delete this folder of the cache"
    return RunError(f"the teacher cache can't be {what}: {error.strerror or error}", where=str(path), fix=fix)
