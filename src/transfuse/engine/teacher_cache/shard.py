"""Some rows of one view in one memory-mapped file, each row under its own checksum: a torn or damaged row is a missing row."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from transfuse.engine.teacher_cache.lock import exclusive

_ALIGNED = 64  # bytes; rows begin at a multiple of it


def file_bytes(rows: int, row_bytes: int) -> int:
    """Size of a shard's file: its checksums, then its rows."""
    return _head(rows) + rows * row_bytes


def _head(rows: int) -> int:
    return -(-4 * rows // _ALIGNED) * _ALIGNED


class Shard:
    """Rows first .. first + rows - 1 of a view.

    The checksum of a row (uint32, 0 = nothing stored) is CRC-32 of its bytes, begun with the row's number, so that a row at another row's
    place is damaged too. It is written after the bytes: a process that is killed in between leaves a row that reads as missing.

    Args:
        path: of the file, which has its full size.
        first: the first row's number.
        rows: how many.
        row_bytes: of one row.
    """

    def __init__(self, path: Path, first: int, rows: int, row_bytes: int):
        self.path, self.first = path, first
        content = np.memmap(path, np.uint8, "r+", shape=(file_bytes(rows, row_bytes),))
        self.sums = content[: 4 * rows].view(np.uint32)
        self._values = content[_head(rows) :].reshape(rows, row_bytes)

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [n, bytes] and bool [n]: which of these rows (numbers within the view) are there and whole."""
        places = rows - self.first
        sums = np.asarray(self.sums[places])  # before the values: they are written in the other order
        values = np.asarray(self._values[places])
        known = sums != 0
        if known.all():
            return values, sums == _checksums(values, rows)
        known[known] = sums[known] == _checksums(values[known], rows[known])
        return values, known

    def write(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Stores rows that are not there yet; of several processes the first one's answer stays, so that all learn from the same."""
        with exclusive(self.path):
            new = ~self.read(rows)[1]
            places = rows[new] - self.first
            self.sums[places] = 0
            self._values[places] = values[new]
            self.sums[places] = _checksums(values[new], rows[new])

    def damaged(self) -> np.ndarray:
        """Numbers of rows that were stored and are not what was stored."""
        rows = self.first + np.flatnonzero(self.sums)
        found = [part[~self.read(part)[1]] for part in np.array_split(rows, max(1, len(rows) // 4096))]
        return np.concatenate(found)

    def drop(self, rows: np.ndarray) -> None:
        """Forgets rows, which are then asked for again."""
        with exclusive(self.path):
            self.sums[rows - self.first] = 0


def _checksums(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """uint32 [n], never 0."""
    sums = (zlib.crc32(row, number) or 1 for row, number in zip(values, rows.tolist(), strict=True))
    return np.fromiter(sums, np.uint32, len(values))
