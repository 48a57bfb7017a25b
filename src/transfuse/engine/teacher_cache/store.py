"""Rows of answers on disk: memory-mapped, each row under its own checksum, so that a torn or damaged row is a missing row."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transfuse.errors import RunError

DTYPES = {"fp16": (np.float16, np.uint16), "fp32": (np.float32, np.uint32)}


class Store:
    """answers[view][row] -> values, for one key.

    A view is two sparse files, `view_V.rows` and `view_V.sums`. The sum of a row (uint32, never 0) is written after its values, so a
    process that is killed in between leaves a row that reads as missing.

    Args:
        root: the cache's folder; the key is a subfolder.
        key: see key.py.
        rows: samples in the pool.
        columns: values per sample.
        precision: fp16 or fp32.
        max_bytes: of the whole cache; keys that were not used for longest make room.
        about: what the key means, kept beside the data for listings.
    """

    def __init__(
        self,
        root: Path,
        key: str,
        rows: int,
        columns: int,
        precision: str = "fp16",
        max_bytes: int | None = None,
        about: dict[str, Any] | None = None,
    ):
        self.folder, self.rows, self.columns = root / "answers" / key, rows, columns
        self.dtype, self._bits = DTYPES[precision]
        self.root, self.max_bytes = root, max_bytes
        self._views: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._factors = (np.arange(columns, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(40503)) | np.uint64(1)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            description = self.folder / "about.json"
            if not description.exists():
                temporary = self.folder / f".about.{os.getpid()}"
                temporary.write_text(json.dumps(about or {}, indent=2, default=str))
                temporary.replace(description)
            os.utime(self.folder)
        except OSError as error:
            what = f"the teacher cache can't be written: {error.strerror or error}"
            raise RunError(what, where=str(self.folder), fix="set cache.dir=FOLDER to a place with space and permission") from error

    def read(self, view: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values [n, columns] and bool [n]: which of them are there and whole."""
        values, sums = self._open(view)
        found = values[rows]
        stored = sums[rows]
        return found, (stored != 0) & (stored == self._sum(found))

    def write(self, view: int, rows: np.ndarray, answers: np.ndarray) -> None:
        """Stores answers, rounded to the store's precision and clipped to its range."""
        values, sums = self._open(view)
        with np.errstate(over="ignore"):
            kept = answers.astype(self.dtype)
        limit = np.finfo(self.dtype).max
        kept = np.clip(kept, -limit, limit)  # inf would make a softmax of NaN
        values[rows] = kept
        sums[rows] = self._sum(values[rows])  # of what is there now: a row that is given twice holds the last

    def _sum(self, values: np.ndarray) -> np.ndarray:
        words = np.ascontiguousarray(values).view(self._bits).astype(np.uint64) + np.uint64(1)
        return ((words * self._factors).sum(1) >> np.uint64(7)).astype(np.uint32) | np.uint32(1)

    def _open(self, view: int) -> tuple[np.ndarray, np.ndarray]:
        if view not in self._views:
            stem = self.folder / f"view_{view}"
            size = self.rows * (self.columns * np.dtype(self.dtype).itemsize + 4)
            if not stem.with_suffix(".rows").exists():
                self._make_room(size)
            try:
                values = _map(stem.with_suffix(".rows"), self.dtype, (self.rows, self.columns))
                sums = _map(stem.with_suffix(".sums"), np.uint32, (self.rows,))
            except OSError as error:
                what = f"the teacher cache can't be opened: {error.strerror or error}"
                raise RunError(what, where=str(stem), fix="delete this folder of the cache, or set cache.dir=FOLDER") from error
            self._views[view] = values, sums
        return self._views[view]

    def _make_room(self, size: int) -> None:
        if shutil.disk_usage(self.folder).free < size:
            fix = "free some space, or set cache.dir=FOLDER; training can go on without a cache with augment.views=fresh"
            raise RunError(f"the disk has no room for {size / 1e6:.0f} MB of teacher answers", where=str(self.root), fix=fix)
        if self.max_bytes is None:
            return
        folders = {folder: folder_bytes(folder) for folder in (self.root / "answers").iterdir() if folder.is_dir()}
        others = sorted((folder for folder in folders if folder != self.folder), key=lambda folder: folder.stat().st_mtime)
        while sum(folders.values()) + size > self.max_bytes and others:
            oldest = others.pop(0)
            shutil.rmtree(oldest, ignore_errors=True)
            folders.pop(oldest)
        if sum(folders.values()) + size > self.max_bytes:
            what = f"teacher answers need {(sum(folders.values()) + size) / 1e6:.0f} MB, the cache may take {self.max_bytes / 1e6:.0f} MB"
            raise RunError(what, where="cache.max_bytes", fix="raise cache.max_bytes, use fewer augment.views, or augment.views=fresh")


def folder_bytes(folder: Path) -> int:
    """Bytes of the files in a folder, as if they had no holes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _map(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with open(path, "ab") as file:  # made sparse at full size; another process may have done it already
        if file.tell() < size:
            file.truncate(size)
    return np.memmap(path, dtype=dtype, mode="r+", shape=shape)


def to_tensor(values: np.ndarray, device: torch.device) -> Tensor:
    """Stored rows as float32 on a device."""
    return torch.from_numpy(np.array(values)).to(device).float()
