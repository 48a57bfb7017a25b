"""Arrays of inputs and labels by part -> DataParts: what npz files, MNIST's files, bundled tables and live objects have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from transfuse.core.types import DataParts, DataRequest
from transfuse.data.labels import Labels, read_labels
from transfuse.data.layout import read_inputs
from transfuse.data.samples import ArraySamples, no_labels
from transfuse.errors import DataError


@dataclass
class ArrayPart:
    """One part as arrays.

    Attributes:
        inputs: pictures or table, in any layout that data/layout.py reads.
        labels: one per row, or None.
        ids: one per row, or None for positions.
        name: what messages call the inputs.
        label_name: what messages call the labels.
    """

    inputs: np.ndarray
    labels: np.ndarray | None = None
    ids: np.ndarray | None = None
    name: str = "x"
    label_name: str = "y"


def parts_of_arrays(
    arrays: Mapping[str, ArrayPart], request: DataRequest, classes: Sequence[str] | None = None, targets: Sequence[str] | None = None
) -> DataParts:
    """Parts ("train", and where there are any "val", "test", "unlabelled") as DataParts.

    Args:
        arrays: by part; all are read the same way.
        request: gives task and picture size.
        classes: names by class number, where known.
        targets: names of regression targets, where known.

    Raises:
        DataError: content that can't be read, named; lengths that differ.
    """
    for part in arrays.values():
        _check_lengths(part)
    inputs, modality, notes = read_inputs({part.name: part.inputs for part in arrays.values()})
    labels = _labels(arrays, request.task, classes, notes)
    samples = {}
    for name, part in arrays.items():
        ids = part.ids if part.ids is not None else _positions(name, len(part.inputs), only=len(arrays) == 1)
        samples[name] = ArraySamples(inputs[part.name], labels.parts[name], ids, request.size)
    return DataParts(
        train=samples["train"],
        val=samples.get("val"),
        test=samples.get("test"),
        unlabelled=samples.get("unlabelled"),
        task=labels.task,
        modality=modality,
        classes=labels.classes,
        targets=list(targets) if targets and len(targets) == len(labels.targets) else labels.targets,
        notes=notes + labels.notes,
    )


def _check_lengths(part: ArrayPart) -> None:
    if part.inputs.ndim == 0:
        raise DataError("is a single value, not an array with one row per sample", where=part.name)
    for what, name, values in (("labels", part.label_name, part.labels), ("ids", "ids", part.ids)):
        if values is not None and (values.ndim == 0 or len(values) != len(part.inputs)):
            count = len(values) if values.ndim else 1
            raise DataError(f"{len(part.inputs)} rows in {part.name}, but {count} {what} in {name}", fix="give one per row")
    if len(part.inputs) == 0:
        raise DataError("holds no rows", where=part.name)


def _positions(part: str, count: int, only: bool) -> np.ndarray:
    return np.arange(count) if only else np.array([f"{part}/{row}" for row in range(count)])


def _labels(arrays: Mapping[str, ArrayPart], task: str, classes: Sequence[str] | None, notes: list[str]) -> Labels:
    given = {part.label_name: part.labels for part in arrays.values() if part.labels is not None}
    if given:
        labels = read_labels(given, task, classes)
    else:  # inputs alone: fine beside labelled data, and refused later where they are all there is
        labels = Labels("classification", {}, [])
    parts: dict[str, Tensor] = {}
    for name, part in arrays.items():
        if part.labels is not None:
            parts[name] = labels.parts[part.label_name]
            continue
        like = next(iter(labels.parts.values()), torch.empty(0, dtype=torch.int64))
        parts[name] = no_labels(like.new_empty((len(part.inputs), *like.shape[1:])))
        if name in ("val", "test"):
            notes.append(f"{part.name} has no labels")
    return Labels(labels.task, parts, labels.classes, labels.targets, labels.notes)
