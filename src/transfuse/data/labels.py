"""What labels mean: task, class numbers, class names, and which samples have none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from transfuse.core.card import TaskName
from transfuse.errors import DataError

MOST_EMPTY = 100  # class numbers may have gaps, but not be something else altogether, such as years or customer numbers
SEPARATOR = ";"  # between the names of one multilabel sample


@dataclass
class Labels:
    """Labels of all parts, read the same way.

    Attributes:
        task: classification, multilabel or regression.
        parts: part -> int64 [n] (-1 = none), or float32 [n, classes or targets] (NaN = none).
        classes: names by class number; empty for regression.
        targets: names of regression targets.
        notes: what was decided.
    """

    task: TaskName
    parts: dict[str, Tensor]
    classes: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def natural(names: Sequence[str]) -> list[str]:
    """Distinct names, sorted; by value where all are numbers, so that "10" comes after "9"."""
    distinct = sorted(set(names))
    numbers = _numbers(distinct)
    return distinct if numbers is None else [distinct[place] for place in np.argsort(numbers, kind="stable")]


def _numbers(names: Sequence[str]) -> np.ndarray | None:
    try:
        return np.array([float(name) for name in names])
    except ValueError:
        return None


def read_labels(arrays: Mapping[str, np.ndarray], task: str = "auto", classes: Sequence[str] | None = None) -> Labels:
    """Arrays of labels by part -> Labels.

    Whole numbers are class numbers; 2-D 0/1 is multilabel; floats are regression targets; text is class names (read_names).

    Args:
        arrays: part's name, as in messages, -> labels [n] or [n, k].
        task: auto, or what the user says.
        classes: names by class number, where known.

    Raises:
        DataError: labels that don't fit the task or the classes; names the part and row.
    """
    if any(array.dtype.kind in "US" for array in arrays.values()):
        texts = {name: [str(value) for value in array.astype(str).reshape(-1)] for name, array in arrays.items()}
        return read_names(texts, task, classes)
    for name, array in arrays.items():
        if array.dtype.kind not in "buif" or array.ndim not in (1, 2):
            raise DataError(f"labels of shape {array.shape} and type {array.dtype}", where=name, fix="give [n], or [n, classes or targets]")
    arrays = {name: array.astype(np.int64) if array.dtype.kind in "bu" else array for name, array in arrays.items()}  # -1 has to fit in
    inferred = _infer(arrays) if task == "auto" else task
    if inferred == "classification":
        return _class_numbers(arrays, classes)
    return _multilabel(arrays, classes, task) if inferred == "multilabel" else _regression(arrays)


def _infer(arrays: Mapping[str, np.ndarray]) -> str:
    if any(array.ndim == 2 for array in arrays.values()):
        if all(array.ndim == 2 and _zero_one(array) for array in arrays.values()):
            return "multilabel"
        whole = all(array.dtype.kind in "bui" and (array.ndim == 1 or array.shape[1] == 1) for array in arrays.values())
        return "classification" if whole else "regression"
    return "classification" if all(array.dtype.kind in "bui" for array in arrays.values()) else "regression"


def _missing(array: np.ndarray) -> np.ndarray:
    """bool, of the array's shape: NaN; in whole numbers -1."""
    return np.isnan(array) if array.dtype.kind == "f" else np.equal(array, -1)


def _as_columns(array: np.ndarray) -> np.ndarray:
    return array[:, None] if array.ndim == 1 else array


def _zero_one(array: np.ndarray) -> bool:
    return bool(np.isin(array[~_missing(array)], (0, 1)).all())


def _class_numbers(arrays: Mapping[str, np.ndarray], classes: Sequence[str] | None) -> Labels:
    parts, notes = {}, []
    for name, array in arrays.items():
        if array.ndim == 2 and array.shape[1] > 1:
            array = _from_one_hot(array, name)
            notes.append(f"{name}: one-hot rows were read as class numbers")
        array = array.reshape(-1)
        missing = _missing(array)
        values = np.where(missing, -1, array)
        broken = (values != np.round(values)) | (values < -1)
        if broken.any():
            row = int(np.flatnonzero(broken)[0])
            raise DataError(
                f"label {values[row]:g} is not a class number", where=f"{name}, row {row}", fix="number classes 0, 1, 2 …; -1 is none"
            )
        parts[name] = torch.from_numpy(values.astype(np.int64))
    top = max((int(part.max()) for part in parts.values() if len(part)), default=-1)
    if classes is None:
        seen = len(np.unique(np.concatenate([part.numpy() for part in parts.values()])))
        if top >= seen + MOST_EMPTY:
            raise DataError(
                f"labels reach {top} but only {seen} values occur",
                where=", ".join(parts),
                fix="number the classes 0, 1, 2 …, or task: regression",
            )
        classes = [str(number) for number in range(top + 1)]
    elif top >= len(classes):
        name, row = next((name, int((part >= len(classes)).nonzero()[0])) for name, part in parts.items() if (part >= len(classes)).any())
        value = int(parts[name][row])
        raise DataError(f"label {value}, but there are {len(classes)} classes (0 to {len(classes) - 1})", where=f"{name}, row {row}")
    return Labels("classification", parts, [str(name) for name in classes], notes=notes)


def _from_one_hot(array: np.ndarray, name: str) -> np.ndarray:
    missing = _missing(array).any(1)
    filled = np.where(np.expand_dims(missing, 1), 0, array)
    good = missing | (np.isin(filled, (0, 1)).all(1) & (filled.sum(1) == 1))
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise DataError("not a one-hot row", where=f"{name}, row {row}", fix="task: multilabel, or give class numbers [n]")
    return np.where(missing, -1, filled.argmax(1))


def _multilabel(arrays: Mapping[str, np.ndarray], classes: Sequence[str] | None, task: str) -> Labels:
    parts, one_hot = {}, True
    for name, array in arrays.items():
        array = _as_columns(array)
        missing = _missing(array)
        partial = missing.any(1) & ~missing.all(1)
        broken = ~(np.isin(array, (0, 1)) | missing).all(1)
        for rows, what in ((partial, "some labels are missing and some are not"), (broken, "labels other than 0 and 1")):
            if np.any(rows):
                raise DataError(what, where=f"{name}, row {int(np.flatnonzero(rows)[0])}", fix="0, 1, or a whole row of NaN for no labels")
        one_hot = one_hot and bool((array[~missing.any(1)].sum(1) == 1).all())
        parts[name] = torch.from_numpy(np.where(missing, np.nan, array).astype(np.float32))
    _check_columns(parts)
    count = next(iter(parts.values())).shape[1]
    if classes is not None and len(classes) != count:
        raise DataError(f"{len(classes)} class names for {count} label columns", where=", ".join(parts))
    notes = []
    if one_hot and count > 1 and task == "auto":
        notes.append(
            "labels are 0/1 columns, so the task is multilabel; every row has exactly one 1: for one-hot classes set task: classification"
        )
    return Labels("multilabel", parts, [str(name) for name in classes or range(count)], notes=notes)


def _regression(arrays: Mapping[str, np.ndarray]) -> Labels:
    parts = {}
    for name, array in arrays.items():
        values = _as_columns(array.astype(np.float32))
        if np.isinf(values).any():
            row = int(np.flatnonzero(np.isinf(values).any(1))[0])
            raise DataError("the target is infinite", where=f"{name}, row {row}", fix="remove the row, or NaN for no label")
        partial = np.isnan(values).any(1) & ~np.isnan(values).all(1)
        if partial.any():
            raise DataError("some targets are missing and some are not", where=f"{name}, row {int(np.flatnonzero(partial)[0])}")
        parts[name] = torch.from_numpy(values)
    _check_columns(parts)
    count = next(iter(parts.values())).shape[1]
    return Labels("regression", parts, targets=["target"] if count == 1 else [f"target_{number}" for number in range(count)])


def _check_columns(parts: Mapping[str, Tensor]) -> None:
    counts = {name: part.shape[1] for name, part in parts.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"the parts differ in label columns: {counts}")


def read_names(texts: Mapping[str, Sequence[str]], task: str = "auto", classes: Sequence[str] | None = None) -> Labels:
    """Labels as text by part -> Labels; an empty text is no label.

    Names separated by ";" are multilabel; numbers with fractions are regression targets; the rest is class names.

    Raises:
        DataError: text that doesn't fit the task or the classes; names the part and row.
    """
    given = [text.strip() for part in texts.values() for text in part if text.strip()]
    inferred = _infer_names(given) if task == "auto" else task
    if inferred == "regression":
        return _regression({name: _as_numbers(part, name) for name, part in texts.items()})
    many = inferred == "multilabel"
    known = list(classes) if classes is not None else natural([name for text in given for name in _split(text, many)])
    number = {name: place for place, name in enumerate(known)}
    rows = {part: [_look_up(text, number, many, f"{part}, row {row}") for row, text in enumerate(values)] for part, values in texts.items()}
    if not many:
        return Labels(
            "classification", {part: torch.tensor([row[0] if row else -1 for row in found]) for part, found in rows.items()}, known
        )
    return Labels("multilabel", {part: _multi_hot(found, len(known)) for part, found in rows.items()}, known)


def _infer_names(given: Sequence[str]) -> str:
    if any(SEPARATOR in text for text in given):
        return "multilabel"
    numbers = _numbers(given)
    return "regression" if numbers is not None and (numbers != np.round(numbers)).any() else "classification"


def _as_numbers(values: Sequence[str], part: str) -> np.ndarray:
    numbers = np.full(len(values), np.nan)
    for row, text in enumerate(values):
        if text.strip():
            found = _numbers([text])
            if found is None:
                raise DataError(f"'{text}' is not a number", where=f"{part}, row {row}", fix="task: classification for names")
            numbers[row] = found[0]
    return numbers


def _split(text: str, many: bool) -> list[str]:
    return [name.strip() for name in text.split(SEPARATOR) if name.strip()] if many else [text]


def _look_up(text: str, number: Mapping[str, int], many: bool, where: str) -> list[int]:
    names = _split(text.strip(), many) if text.strip() else []
    unknown = [name for name in names if name not in number]
    if unknown:
        raise DataError(f"'{unknown[0]}' is not one of the {len(number)} classes", where=where, fix=f"known: {', '.join(number)}")
    return [number[name] for name in names]


def _multi_hot(rows: Sequence[Sequence[int]], count: int) -> Tensor:
    labels = torch.zeros(len(rows), count)
    for row, numbers in enumerate(rows):
        labels[row, list(numbers)] = 1.0
        if not numbers:
            labels[row] = float("nan")
    return labels
