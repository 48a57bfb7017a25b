"""Reads what somebody wants predicted: pictures, rows of CSV files and of arrays, one at a time."""

from __future__ import annotations

import csv
import math
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from transfuse.core.preprocess import Preprocess
from transfuse.core.registry import did_you_mean
from transfuse.data.decode import read_picture
from transfuse.errors import DataError

ARRAYS, TABLES = (".npy", ".npz"), (".csv", ".tsv")
NAMES = ("id", "path")  # columns of a table that say what a row is called, or where its picture lies
INPUTS = ("x", "inputs", "x_test", "data")  # of an .npz, in the order in which they are looked for


@dataclass
class Entry:
    """One input: what it is called, and preprocessed values [1, ...]."""

    name: str
    values: Tensor


@dataclass
class Unread:
    """One input that can't be read, and why."""

    name: str
    reason: str


@dataclass
class Reading:
    """How inputs are read.

    Attributes:
        preprocess: the model's.
        modality: image or columns, where it is known.
        count: how many columns the model takes, where it is known.
        columns: names of a table's columns in the model's order; None: all but `id`.
    """

    preprocess: Preprocess
    modality: Literal["image", "columns"] | None
    count: int | None
    columns: Sequence[str] | None = None


def read(path: Path, reading: Reading) -> Iterator[Entry | Unread]:
    """The inputs of one file.

    Raises:
        DataError: the file is of a kind that the model can't take, or a table without the columns.
    """
    kind = path.suffix.lower()
    if kind in TABLES:
        return _table(path, reading)
    if kind in ARRAYS:
        return _array(path, reading)
    if reading.modality == "columns":
        what = f"the model takes rows of {reading.count or 'several'} columns, and this is no table"
        raise DataError(what, where=str(path), fix="give a CSV file, .npy or .npz")
    return iter([_picture(path, str(path), reading)])


def _picture(path: Path, name: str, reading: Reading) -> Entry | Unread:
    try:
        return Entry(name, reading.preprocess.exact_image(read_picture(path)))
    except DataError as error:
        return Unread(name, error.what)


def _table(path: Path, reading: Reading) -> Iterator[Entry | Unread]:
    """Rows of numbers, or the pictures that a column `path` names."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            header = next(rows, None)
            if header is None:
                raise DataError("the file is empty", where=str(path))
            pictures = reading.modality != "columns" and "path" in header
            chosen = [] if pictures else _columns(header, path, reading)
            for number, row in enumerate(rows, start=2):
                if row:
                    yield _row(row, number, header, path, reading, chosen)
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        yield Unread(str(path), f"can't be read: {error}")


def _row(row: list[str], number: int, header: list[str], path: Path, reading: Reading, chosen: list[int]) -> Entry | Unread:
    named = dict(zip(header, row, strict=False))
    if not chosen:
        picture = Path(named.get("path", ""))
        return _picture(picture if picture.is_absolute() else path.parent / picture, named.get("id") or str(picture), reading)
    name = named.get("id") or f"{path}:{number}"
    if len(row) != len(header):
        return Unread(name, f"row {number} has {len(row)} columns, the header {len(header)}")
    values: list[float] = []
    for place in chosen:
        try:
            value = float(row[place])
        except ValueError:
            return Unread(name, f"row {number}, column '{header[place]}': '{row[place]}' is no number")
        if not math.isfinite(value):
            return Unread(name, f"row {number}, column '{header[place]}': {row[place]} is not finite")
        values.append(value)
    return Entry(name, reading.preprocess.exact_batch(torch.tensor([values])))


def _columns(header: list[str], path: Path, reading: Reading) -> list[int]:
    """Where the model's columns stand in a table.

    Raises:
        DataError: a named column is missing, or there are more or fewer than the model takes.
    """
    if reading.modality == "image":
        what = "the model takes pictures, and this table has no column 'path'"
        raise DataError(what, where=str(path), fix="name the column with the pictures' files path")
    if reading.columns is not None:
        missing = [name for name in reading.columns if name not in header]
        if missing:
            hint = did_you_mean(missing[0], header)
            what = f"the column{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))} missing{hint}"
            raise DataError(what.replace(" missing", " is missing" if len(missing) == 1 else " are missing"), where=str(path))
        found = [header.index(name) for name in reading.columns]
    else:
        found = [place for place, name in enumerate(header) if name not in NAMES]
    if reading.count is not None and len(found) != reading.count:
        what = f"{len(found)} columns beside id, the model takes {reading.count}"
        raise DataError(what, where=str(path), fix="name those to use, in the model's order: --columns a,b,c")
    return found


def _array(path: Path, reading: Reading) -> Iterator[Entry | Unread]:
    """Rows of an array; an .npy is read from the disk as it is needed."""
    try:
        if path.suffix.lower() == ".npy":
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            with np.load(path, allow_pickle=False) as stored:
                name = next((name for name in INPUTS if name in stored.files), None)
                if name is None and len(stored.files) == 1:
                    name = stored.files[0]
                if name is None:
                    yield Unread(str(path), f"holds {', '.join(stored.files)}, and none is called {' or '.join(INPUTS)}")
                    return
                rows = stored[name]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        yield Unread(str(path), f"can't be read: {str(error).splitlines()[0]}")
        return
    if rows.dtype.kind not in "uif" or rows.ndim not in (2, 3, 4):
        raise DataError(f"holds {rows.dtype} {rows.shape}: neither rows nor pictures", where=str(path))
    _refuse_shape(rows, path, reading)
    for number in range(len(rows)):
        yield Entry(f"{path}:{number}", reading.preprocess.exact_batch(_as_raw(np.array(rows[number]))))


def _refuse_shape(rows: np.ndarray, path: Path, reading: Reading) -> None:
    if (rows.ndim == 2) != (reading.modality == "columns") and reading.modality is not None:
        wanted = "pictures" if reading.modality == "image" else f"rows of {reading.count or 'several'} columns"
        raise DataError(f"holds {'rows' if rows.ndim == 2 else 'pictures'} {rows.shape}, the model takes {wanted}", where=str(path))
    if rows.ndim == 2 and reading.count is not None and rows.shape[1] != reading.count:
        raise DataError(f"rows have {rows.shape[1]} columns, the model takes {reading.count}", where=str(path))


def _as_raw(row: np.ndarray) -> Tensor:
    """One raw sample [1, ...]: a picture with its channels in front, whichever side they lie on in the file."""
    if row.ndim == 2:
        row = row[None]
    elif row.ndim == 3 and row.shape[0] not in (1, 3) and row.shape[-1] in (1, 3):
        row = row.transpose(2, 0, 1)
    values = torch.from_numpy(np.ascontiguousarray(row))
    return (values if values.dtype == torch.uint8 else values.float())[None]
