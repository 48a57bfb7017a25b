"""`arrays:FILE.npz`: numpy arrays x and y, or x_train, y_train, x_test …; tables and pictures, labelled or not."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from transfuse.core.registry import did_you_mean
from transfuse.core.types import DataParts, DataRequest
from transfuse.data.array_parts import ArrayPart, parts_of_arrays
from transfuse.data.locate import existing_file, inside
from transfuse.errors import DataError

PARTS = ("train", "val", "test", "unlabelled")
_KNOWN = frozenset({"x", "y", "ids", "classes"} | {f"{kind}_{part}" for kind in ("x", "y", "ids") for part in PARTS})


def catalog() -> dict[str, str]:
    """The shape of the name."""
    return {"FILE.npz": "x, y or x_train, y_train, x_val, y_val, x_test, y_test, x_unlabelled; optional classes, ids"}


def open_data(name: str, request: DataRequest) -> DataParts:
    """Reads an npz file; nothing in it is unpickled.

    Pictures are uint8 or floats in NHWC, NCHW or NHW, tables 2-D. Whole numbers as labels are classes, 2-D 0/1 multilabel, floats
    regression targets, text class names; -1 and NaN are no label.

    Args:
        name: path of the file.
        request: gives task and picture size.

    Raises:
        DataError: no such file, not an npz, pickled or missing arrays, or content that can't be made sense of.
    """
    path = existing_file(name, "arrays")
    with inside(str(path)):
        arrays = _load(path)
        _check_names(arrays)
        classes = [str(entry) for entry in arrays["classes"].reshape(-1)] if "classes" in arrays else None
        return parts_of_arrays(_by_part(arrays), request, classes)


def _load(path: Path) -> dict[str, np.ndarray]:
    if path.suffix in (".csv", ".tsv", ".txt"):
        fix = "save it as npz: np.savez(FILE, x=columns, y=labels); images:FILE.csv is for a list of pictures"
        raise DataError("a table of text; arrays: reads .npz files", fix=fix)
    if path.suffix == ".npy":
        raise DataError("one array, without labels", fix="save inputs and labels together: np.savez(FILE, x=inputs, y=labels)")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:  # np.load itself leaves a broken file open
            return {name: _member(archive, name) for name in archive.files}
    except DataError:
        raise
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError("not a whole npz file", fix="write it again with np.savez; a download may have been cut off") from error


def _member(archive: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    try:
        return archive[name]
    except ValueError as error:
        if "allow_pickle" in str(error):
            fix = "save numbers or text: lists of unequal length and None make numpy pickle"
            raise DataError("a pickled array; it could run code, so it is not opened", where=name, fix=fix) from error
        raise


def _check_names(arrays: Mapping[str, np.ndarray]) -> None:
    inputs = [name for name in ("x", "x_train") if name in arrays]
    if len(inputs) == 2:
        raise DataError("both x and x_train are there", fix="keep x and y, or x_train, y_train and their like")
    unknown = [name for name in arrays if name not in _KNOWN]
    if not inputs:
        hint = did_you_mean(unknown[0], ["x", "x_train"]) if unknown else ""
        raise DataError(
            f"has neither x nor x_train; it holds {', '.join(arrays) or 'nothing'}{hint}", fix="name the inputs x and the labels y"
        )
    beside = [name for name in arrays if name in _KNOWN and name[0] == "y" and "x" + name[1:] not in arrays]
    if beside:
        raise DataError(f"{beside[0]} has no x{beside[0][1:]} beside it", fix="labels y… belong to inputs x…")
    if "x" in arrays and any(f"x_{part}" in arrays for part in PARTS if part != "unlabelled"):
        raise DataError("x stands beside other parts", fix="name it x_train")


def _by_part(arrays: Mapping[str, np.ndarray]) -> dict[str, ArrayPart]:
    parts = {}
    for part in PARTS:
        tail = "" if part == "train" and "x" in arrays else f"_{part}"
        if f"x{tail}" in arrays:
            labels = None if part == "unlabelled" else arrays.get(f"y{tail}")
            parts[part] = ArrayPart(arrays[f"x{tail}"], labels, arrays.get(f"ids{tail}"), f"x{tail}", f"y{tail}")
    return parts
