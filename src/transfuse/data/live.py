"""Live objects in Python (arrays, tensors, data sets, loaders) -> parts; what is ambiguous is refused, with the form that is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from transfuse.core.registry import did_you_mean
from transfuse.core.types import DataParts, DataRequest
from transfuse.data.array_parts import ArrayPart, parts_of_arrays
from transfuse.data.data_sets import Contents, contents
from transfuse.data.layout import as_array
from transfuse.errors import DataError

PARTS = ("train", "val", "test", "unlabelled")
_FORMS = (
    "(inputs, labels); (train, test) or (train, val, test) of such pairs, Datasets or DataLoaders; "
    "or a dict of train, val, test, unlabelled"
)


def read_live(source: Any, request: DataRequest, labels_wanted: bool = True) -> DataParts:
    """Live objects as parts.

    Args:
        source: one of the forms in `open_data`.
        request: gives task and picture size.
        labels_wanted: false for `unlabelled`, where inputs alone will do.

    Raises:
        DataError: another form, an ambiguous one, or content that can't be made sense of.
    """
    notes: list[str] = []
    arrays: dict[str, ArrayPart] = {}
    classes = None
    for part, held in _structure(source, labels_wanted, notes).items():
        found = _contents(held, part, request, notes, labels_wanted or part != "train")
        arrays[part] = ArrayPart(found.inputs, found.labels, None, f"{part} inputs", f"{part} labels")
        classes = classes or found.classes
    if request.task == "regression" or not _class_numbers(arrays):
        classes = None  # a data set's class names have nothing to say about targets
    parts = parts_of_arrays(arrays, request, classes)
    parts.notes[:0] = notes
    return parts


def _class_numbers(arrays: Mapping[str, ArrayPart]) -> bool:
    labels = [part.labels for part in arrays.values() if part.labels is not None]
    return all(array.dtype.kind in "bui" for array in labels)


def _is_data_set(value: Any) -> bool:
    return isinstance(value, (Dataset, DataLoader))


def _is_array(value: Any) -> bool:
    return not isinstance(value, (str, bytes)) and not _is_data_set(value) and (hasattr(value, "__array__") or isinstance(value, list))


def _is_part(value: Any) -> bool:
    return _is_data_set(value) or (isinstance(value, tuple) and len(value) == 2 and all(map(_is_array, value)))


def _structure(source: Any, labels_wanted: bool, notes: list[str]) -> dict[str, Any]:
    """Part -> what holds it."""
    if isinstance(source, Mapping):
        return _named(source)
    if _is_part(source):
        return {"train": source}
    if _is_array(source):
        if labels_wanted and not (isinstance(source, list) and any(map(_is_part, source))):
            raise DataError("inputs without labels", where="data", fix="give (inputs, labels)")
        if isinstance(source, list) and any(map(_is_part, source)):
            raise DataError("a list of parts", where="data", fix="write a tuple: (train, test) or (train, val, test)")
        return {"train": source}
    if isinstance(source, tuple) and len(source) in (2, 3):
        return _in_order(source, notes)
    size = f" of {len(source)}" if isinstance(source, (tuple, list)) else ""
    raise DataError(f"can't read data from a {type(source).__name__}{size}", where="data", fix=f"give {_FORMS}")


def _named(source: Mapping[Any, Any]) -> dict[str, Any]:
    for name in source:
        if name not in PARTS:
            raise DataError(f"unknown part '{name}'{did_you_mean(str(name), PARTS)}", where="data", fix=f"parts are {', '.join(PARTS)}")
    if source.get("train") is None:
        raise DataError("there is no train part", where="data", fix=f"give {_FORMS}")
    for name, held in source.items():
        if held is not None and not _is_part(held) and not (name == "unlabelled" and _is_array(held)):
            raise DataError(
                f"the part is a {type(held).__name__}", where=f"data, {name}", fix="give (inputs, labels), a Dataset or a DataLoader"
            )
    return {name: source[name] for name in PARTS if source.get(name) is not None}


def _in_order(source: tuple[Any, ...], notes: list[str]) -> dict[str, Any]:
    names = ("train", "test") if len(source) == 2 else ("train", "val", "test")
    if all(map(_is_array, source)):
        raise DataError(
            "three arrays can mean several things", where="data", fix="give ((inputs, labels), (inputs, labels), (inputs, labels))"
        )
    parts = {name: held for name, held in zip(names, source, strict=True) if not (name == "val" and held is None)}
    wrong = [(name, held) for name, held in parts.items() if not _is_part(held)]
    if wrong:
        name, held = wrong[0]
        what = f"a tuple of {len(held)}" if isinstance(held, tuple) else f"a {type(held).__name__}"
        raise DataError(f"read as ({', '.join(names)}), but {name} is {what}", where="data", fix=f"give {_FORMS}")
    if len(source) == 2:
        notes.append("two parts were given: they are train and test")
    return parts


def _contents(held: Any, part: str, request: DataRequest, notes: list[str], labels_wanted: bool) -> Contents:
    if _is_data_set(held):
        found = contents(held, part, request.size, notes)
    elif isinstance(held, tuple):
        found = _pair(held, part)
    else:
        return Contents(as_array(held, f"{part} inputs"), None)
    if found.labels is None and labels_wanted and part == "train":
        raise DataError("the samples have no labels", where="data, train", fix="let each item be (input, label)")
    return found


def _pair(held: tuple[Any, Any], part: str) -> Contents:
    inputs, labels = as_array(held[0], f"{part} inputs"), as_array(held[1], f"{part} labels")
    if labels.ndim > 2 and (len(inputs) != len(labels) or inputs.ndim == labels.ndim):
        raise DataError(
            f"shapes {inputs.shape} and {labels.shape} are not inputs and labels",
            where=f"data, {part}",
            fix="two parts are ((x, y), (x, y))",
        )
    if inputs.ndim == 2 and labels.ndim == 2 and len(inputs) != len(labels) and inputs.shape[1] == labels.shape[1]:
        raise DataError(
            f"two tables of {len(inputs)} and {len(labels)} rows are not inputs and labels",
            where=f"data, {part}",
            fix="two parts are ((x, y), (x, y))",
        )
    return Contents(inputs, np.atleast_1d(labels))
