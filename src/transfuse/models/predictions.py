"""A table of predictions as a model: `predictions:FILE.npz` or `.csv`, probabilities or logits by sample id."""

from __future__ import annotations

import csv
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from transfuse.core.types import Model, ModelRequest, Target
from transfuse.errors import ModelError

_TOLERANCE = 1e-3  # probabilities are often written with three or four digits
_ARRAYS = ("probabilities", "logits", "outputs")  # `outputs` is what run folders write: logits
_TINY = float(np.finfo(np.float32).tiny)  # stands for probability 0, whose logarithm no loss can use


def open_model(name: str, request: ModelRequest) -> Model:
    """Reads a table; `options: {values: logits}` says that a .csv holds logits rather than probabilities.

    A .npz has `ids` and `probabilities` or `logits` [samples, classes], and may have `classes`. A .csv has a column `id` and one column
    per class. Probabilities become log-probabilities (multilabel: log-odds per class), so that a softmax (sigmoid) gives them back.
    Regression predictions are in the targets' own units.

    Raises:
        ModelError: no such file, unreadable, or a row that is no prediction; names the row.
    """
    path = Path(name).expanduser()
    where = str(path)
    if not path.is_file():
        raise ModelError("no such file", where)
    if path.suffix == ".npz":
        ids, values, kind, classes = _read_npz(path)
    elif path.suffix == ".csv":
        ids, values, kind, classes = _read_csv(path, request.options.get("values", "probabilities"))
    else:
        raise ModelError("a table of predictions is .npz or .csv", where)
    _check_rows(ids, values, where)
    if classes is not None and len(classes) != values.shape[1]:
        raise ModelError(f"{len(classes)} class names for {values.shape[1]} columns", where)
    target = None
    if request.task == "regression":
        columns = classes or [f"target{number}" for number in range(values.shape[1])]
        target = Target(columns, [0.0] * len(columns), [1.0] * len(columns))
        classes = None
    elif kind == "probabilities":
        values = _log_odds(ids, values, where) if request.task == "multilabel" else _log_probabilities(ids, values, where)
    logits = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    options = {"outputs": values.shape[1]}
    return Model(None, f"predictions:{name}", options=options, classes=classes, target=target, pretrained=True, table=(ids, logits))


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray, str, list[str] | None]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files if key in ("ids", "classes", *_ARRAYS)}
            held = archive.files
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(f"can't be read: {error}", str(path), "plain arrays only, written by np.savez; text as str, not object") from error
    given = [key for key in _ARRAYS if key in arrays]
    if "ids" not in arrays or len(given) != 1:
        raise ModelError(f"holds {', '.join(held) or 'nothing'}", str(path), "it needs ids and either probabilities or logits")
    values = arrays[given[0]]
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or len(values) != len(arrays["ids"]) or arrays["ids"].ndim != 1:
        raise ModelError(f"ids are {arrays['ids'].shape}, {given[0]} {values.shape}", str(path), "one row of numbers per id")
    if values.dtype.kind not in "fiu" or arrays["ids"].dtype.kind not in "iuUS":
        raise ModelError(f"ids are {arrays['ids'].dtype}, {given[0]} {values.dtype}", str(path), "ids are text or integers, values numbers")
    ids = arrays["ids"].astype(np.int64) if arrays["ids"].dtype.kind in "iu" else arrays["ids"].astype(str)
    classes = [str(label) for label in arrays["classes"]] if "classes" in arrays else None
    return ids, values.astype(np.float64), "probabilities" if given[0] == "probabilities" else "logits", classes


def _read_csv(path: Path, kind: str) -> tuple[np.ndarray, np.ndarray, str, list[str] | None]:
    if kind not in ("probabilities", "logits"):
        raise ModelError(f"options: values can't be {kind!r}", str(path), "probabilities or logits")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise ModelError(f"can't be read: {error}", str(path)) from error
    if len(rows) < 2 or "id" not in rows[0] or len(rows[0]) < 2:
        raise ModelError("needs a header with the column 'id', one column per class, and rows", str(path))
    column = rows[0].index("id")
    ids: list[str] = []
    values: list[list[float]] = []
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        if len(row) != len(rows[0]):
            raise ModelError(f"row {number} has {len(row)} columns, the header {len(rows[0])}", str(path))
        try:
            values.append([float(cell) for index, cell in enumerate(row) if index != column])
        except ValueError as error:
            raise ModelError(f"row {number}: {error}", str(path)) from error
        ids.append(row[column])
    whole = all(re.fullmatch(r"0|-?[1-9][0-9]{0,17}", name) for name in ids)
    named = np.array(ids, dtype=np.int64) if whole else np.array(ids)
    return named, np.array(values, dtype=np.float64), kind, [name for index, name in enumerate(rows[0]) if index != column]


def _check_rows(ids: np.ndarray, values: np.ndarray, where: str) -> None:
    if not len(ids):
        raise ModelError("holds no rows", where)
    broken = np.flatnonzero(~np.isfinite(values).all(1))
    if len(broken):
        raise ModelError(f"{_rows(ids, broken)} not finite", where)
    _, first = np.unique(ids, return_index=True)
    if len(first) != len(ids):
        again = np.setdiff1d(np.arange(len(ids)), first)
        raise ModelError(f"{_rows(ids, again)} there twice", where, "one row per sample")


def _rows(ids: np.ndarray, rows: np.ndarray) -> str:
    """'3 rows, the first number 7 (id 'x'), are', counting rows of values from 1."""
    which = f"number {rows[0] + 1} (id {ids[rows[0]].item()!r})"
    return f"row {which} is" if len(rows) == 1 else f"{len(rows)} rows, the first {which}, are"


def _log_probabilities(ids: np.ndarray, values: np.ndarray, where: str) -> np.ndarray:
    fix = "if they are logits: `logits` in the .npz, options: {values: logits} for a .csv"
    wrong = np.flatnonzero((values < 0).any(1) | (np.abs(values.sum(1) - 1) > _TOLERANCE))
    if len(wrong):
        row = values[wrong[0]]
        raise ModelError(f"{_rows(ids, wrong)} no probabilities (sum {row.sum():.6g}, least {row.min():.6g})", where, fix)
    return np.log(np.maximum(values / values.sum(1, keepdims=True), _TINY))


def _log_odds(ids: np.ndarray, values: np.ndarray, where: str) -> np.ndarray:
    wrong = np.flatnonzero(((values < 0) | (values > 1)).any(1))
    if len(wrong):
        raise ModelError(f"{_rows(ids, wrong)} outside 0 to 1", where, "multilabel probabilities are one per class")
    return np.log(np.maximum(values, _TINY)) - np.log(np.maximum(1 - values, _TINY))


def catalog() -> Mapping[str, str]:
    """How a table is named; there is nothing to choose from."""
    return {"FILE": "a table of probabilities or logits by sample id, .npz or .csv"}
