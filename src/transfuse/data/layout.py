"""Arrays as people store them (NHWC, NCHW, NHW, floats in 0..1, tables) -> the raw inputs that everything else expects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transfuse.core.types import Modality
from transfuse.errors import DataError

Arrays = Mapping[str, np.ndarray]


def as_array(values: Any, where: str) -> np.ndarray:
    """A tensor, data frame or nested list as a numpy array.

    Raises:
        DataError: it is ragged or made of objects.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    try:
        array = np.asarray(values)
    except ValueError as error:  # a ragged list
        raise DataError("rows differ in length", where=where, fix="give arrays of one shape") from error
    if array.dtype == object:
        raise DataError("holds Python objects, not numbers", where=where, fix="give arrays of numbers, all rows of one shape")
    return array


def read_inputs(arrays: Arrays) -> tuple[dict[str, Tensor], Modality, list[str]]:
    """Inputs by part -> tensors by part, all of one layout, the modality, and what was decided.

    2-D arrays are tables; 3-D and 4-D ones pictures. All parts are looked at together, so that they are read the same way.

    Args:
        arrays: part's name, as in messages, -> numbers.

    Raises:
        DataError: no numbers, NaN or infinity (row named), unclear layout, a wrong number of channels, parts of different shapes.
    """
    for name, array in arrays.items():
        _check_numbers(array, name)
    kinds = {name: "columns" if array.ndim == 2 else "image" for name, array in arrays.items()}
    if len(set(kinds.values())) > 1:
        raise DataError(f"some parts are tables and some are pictures: {kinds}", fix="give all parts the same shape")
    notes: list[str] = []
    if "columns" in kinds.values():
        found = {name: _tensor(_float32(array, name)) for name, array in arrays.items()}
        modality: Modality = "columns"
    else:
        found = {name: _tensor(array) for name, array in _pictures(arrays, notes).items()}
        modality = "image"
    _check_same_shape(found)
    return found, modality, notes


def _tensor(array: np.ndarray) -> Tensor:
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy())  # torch has no read-only memory


def _check_numbers(array: np.ndarray, name: str) -> None:
    if array.dtype.kind not in "buif":
        raise DataError(f"holds {array.dtype}, not real numbers", where=name, fix="encode it as numbers first")
    if array.ndim not in (2, 3, 4):
        wanted = "[rows, columns] for a table, [n, height, width] or [n, height, width, channels] for pictures"
        raise DataError(f"has shape {array.shape}", where=name, fix=f"give {wanted}")
    if 0 in array.shape[1:]:
        raise DataError(f"has shape {array.shape}: nothing in a row", where=name)
    if array.dtype.kind == "f":
        bad = np.asarray(~np.isfinite(array).reshape(len(array), -1).all(1))
        if bad.any():
            raise DataError(_not_finite(bad), where=name, fix="fill or remove these rows")


def _not_finite(bad: np.ndarray) -> str:
    rows = np.flatnonzero(bad)
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    return f"NaN or infinity in row{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows[:5]))}{more} (counted from 0)"


def _float32(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype.kind == "f" and array.size and np.abs(array).max() > np.finfo(np.float32).max:
        raise DataError("holds values beyond the range of 32-bit floats", where=name, fix="rescale the column")
    return array.astype(np.float32, copy=False)


def _check_same_shape(found: Mapping[str, Tensor]) -> None:
    shapes = {name: tuple(tensor.shape[1:]) for name, tensor in found.items()}
    if len(set(shapes.values())) > 1:
        text = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise DataError(f"the parts differ in shape: {text}", fix="give all parts the same channels, height and width (or columns)")


def _pictures(arrays: Arrays, notes: list[str]) -> dict[str, np.ndarray]:
    channels_first = {name: _channels_first(array, name) for name, array in arrays.items()}
    pixels = _as_pixels(channels_first, notes)
    if any(array.shape[1] == 4 for array in pixels.values()):
        notes.append("pictures have an alpha channel: they were put on white")
        pixels = {name: _on_white(array) if array.shape[1] == 4 else array for name, array in pixels.items()}
    return pixels


def _channels_first(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim == 3:
        return array[:, None]
    first, last = array.shape[1] in (1, 3, 4), array.shape[3] in (1, 3, 4)
    if first and last:
        fix = "give pictures of more than 4 pixels a side, or a 2-D table"
        raise DataError(f"shape {array.shape} can be channels-first or channels-last", where=name, fix=fix)
    if first:
        return array
    if last:
        return array.transpose(0, 3, 1, 2)
    raise DataError(
        f"shape {array.shape} has neither 1, 3 or 4 channels first nor last",
        where=name,
        fix="pictures are grey, RGB or RGBA; choose channels",
    )


def _as_pixels(arrays: dict[str, np.ndarray], notes: list[str]) -> dict[str, np.ndarray]:
    """uint8 where nothing is lost by it, else float32 in units of 0..255 where the range allows, so that any model's scaling fits."""
    filled = [array for array in arrays.values() if array.size]
    if not filled or all(array.dtype == np.uint8 for array in filled):
        return {name: array.astype(np.uint8, copy=False) for name, array in arrays.items()}
    if all(array.dtype == bool for array in filled):
        return {name: array.astype(np.uint8) * np.uint8(255) for name, array in arrays.items()}
    low, high = min(float(array.min()) for array in filled), max(float(array.max()) for array in filled)
    floats = any(array.dtype.kind == "f" for array in filled)
    if any(array.dtype == np.uint16 for array in filled) and high > 255:
        factor, unit = 255 / 65535, "16-bit values"
    elif floats and low >= 0 and high <= 1:
        factor, unit = 255.0, "floats in 0..1"
    elif low >= 0 and high <= 255:
        factor, unit = 1.0, "values in 0..255"
    else:
        notes.append(f"pictures hold values from {low:g} to {high:g}: kept as floats; no pretrained model's preprocessing fits them")
        return {name: array.astype(np.float32) for name, array in arrays.items()}
    if all(_whole_steps(array, factor) for array in filled):
        if floats:
            notes.append(f"pictures hold {unit} that are whole 8-bit steps: kept as 8-bit, nothing is lost")
        return {name: np.round(array * np.float64(factor)).astype(np.uint8) for name, array in arrays.items()}
    notes.append(f"pictures hold {unit} finer than 8 bits: kept as floats, scaled to 0..255")
    return {name: (array * np.float64(factor)).astype(np.float32) for name, array in arrays.items()}


def _whole_steps(array: np.ndarray, factor: float) -> bool:
    """Whether every value is a whole number of 8-bit steps, to within what the type itself can resolve (and far below half a step)."""
    resolution = 255 * float(np.finfo(array.dtype).eps) if array.dtype.kind == "f" else 0.0
    for start in range(0, len(array), 4096):  # in chunks: float64 copies of a large array would not fit
        steps = array[start : start + 4096].astype(np.float64) * factor
        if np.abs(steps - np.round(steps)).max() > max(1e-3, resolution):
            return False
    return True


def _on_white(array: np.ndarray) -> np.ndarray:
    alpha = array[:, 3:].astype(np.float32) / 255
    blended = array[:, :3] * alpha + 255 * (1 - alpha)
    return np.round(blended).astype(np.uint8) if array.dtype == np.uint8 else blended.astype(np.float32)
