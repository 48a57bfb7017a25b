"""Some rows of one view in one memory-mapped file, each row under its own checksum: a torn or damaged row is a missing row."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np

from transfuse.engine.teacher_cache.lock import exclusive_if, identity_of, is_file

_ALIGNED = 64  # bytes; rows begin at a multiple of it


def file_bytes(rows: int, row_bytes: int) -> int:
    """Size of a shard's file: its checksums, then its rows."""
    return _head(rows) + rows * row_bytes


def _head(rows: int) -> int:
    return -(-4 * rows // _ALIGNED) * _ALIGNED


class Shard:
    """Rows first .. first + rows - 1 of a view.

    The checksum of a row (uint32, 0 = nothing stored) is CRC-32 of its bytes, begun with the row's place: its key, view and number, so that
    a row at another row's place, or a file in another file's, is damaged too. It is written after the bytes: a process that is killed in
    between leaves a row that reads as missing.

    Args:
        path: of the file, which has its full size if it is to be written.
        first: the first row's number.
        rows: how many.
        row_bytes: of one row.
        place: names the key and the view.
        writable: whether rows are to be added.

    Attributes:
        hurt: whether a row was read that was stored and is not what was stored.
    """

    def __init__(self, path: Path, first: int, rows: int, row_bytes: int, place: str = "", writable: bool = True):
        self.path, self.first, self.hurt = path, first, False
        self._seed = zlib.crc32(place.encode())
        size = file_bytes(rows, row_bytes)
        with open(path, "r+b" if writable else "rb") as file:
            self._file = identity_of(file.fileno())
            if writable or os.fstat(file.fileno()).st_size >= size:
                content: np.ndarray = np.memmap(file, np.uint8, "r+" if writable else "r", shape=(size,))
            else:  # cut off, and it can't be made longer: what is missing reads as damaged
                content = np.frombuffer(file.read().ljust(size, b"\0"), np.uint8)
        self.sums = content[: 4 * rows].view(np.uint32)
        self._values = content[_head(rows) :].reshape(rows, row_bytes)

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [n, bytes] and bool [n]: which of these rows (numbers within the view) are there and whole."""
        places = rows - self.first
        sums = np.asarray(self.sums[places])  # before the values: they are written in the other order
        values = np.asarray(self._values[places])
        known = sums != 0
        if known.all():
            known = sums == self._checksums(values, rows)
            self.hurt |= not bool(known.all())
            return values, known
        stored = known.copy()
        known[stored] = sums[stored] == self._checksums(values[stored], rows[stored])
        self.hurt |= bool((known != stored).any())
        return values, known

    def write(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Stores rows that are not there yet; of several processes the first one's answer stays, so that all learn from the same.

        Raises:
            FileNotFoundError: the file was deleted since it was opened.
        """
        with exclusive_if(self.path, self._file):
            new = ~self.read(rows)[1]
            places = rows[new] - self.first
            self.sums[places] = 0
            self._values[places] = values[new]
            self.sums[places] = self._checksums(values[new], rows[new])

    def damaged(self) -> np.ndarray:
        """Numbers of rows that were stored and are not what was stored."""
        rows = self.first + np.flatnonzero(self.sums)
        found = [part[~self.read(part)[1]] for part in np.array_split(rows, max(1, len(rows) // 4096))]
        return np.concatenate(found)

    def drop(self, rows: np.ndarray) -> None:
        """Forgets rows, which are then asked for again."""
        with exclusive_if(self.path, self._file):
            self.sums[rows - self.first] = 0

    def is_there(self) -> bool:
        """Whether the file is still the one that was opened."""
        return is_file(self.path, self._file)

    def _checksums(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """uint32 [n], never 0."""
        sums = (zlib.crc32(row, self._seed ^ number) or 1 for row, number in zip(values, rows.tolist(), strict=True))
        return np.fromiter(sums, np.uint32, len(values))
