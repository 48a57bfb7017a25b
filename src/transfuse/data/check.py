"""Looks at opened data before anything is trained on it: refuses what can't be learnt from, and says aloud what spoils a result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from transfuse.core.types import DataSet, Samples, float_labels
from transfuse.data.samples import digests, raw_dtype, raw_shape
from transfuse.errors import DataError

_CHUNK = 1024
_NAMED = 5  # samples or classes that a message lists


def check(dataset: DataSet, train_labels: bool = True) -> list[str]:
    """Warnings, one sentence each.

    Unreadable files, rows with NaN, and labels beyond the classes are refused while opening, where file and row are known; this looks at
    the rest, and at sources that don't look themselves.

    Args:
        dataset: as it was opened.
        train_labels: whether the labels of the training part are looked at.

    Raises:
        DataError: an empty part, labels out of range, a single class, a constant target, NaN or infinity in the inputs, parts that
            differ in shape, pictures with other than 1 or 3 channels.
    """
    parts = _parts(dataset)
    for name, samples in parts.items():
        if len(samples) == 0:
            raise DataError(f"the {name} part is empty", where=dataset.source)
    _check_shapes(parts, dataset)
    _check_labels(parts if train_labels else {name: parts[name] for name in ("val", "test")}, dataset)
    _check_finite(parts, dataset)
    warnings = _class_counts(parts, dataset) if train_labels else []
    if dataset.modality == "image":
        warnings += _shared_pictures(parts)
    elif dataset.modality == "columns":
        warnings += _constant_columns(dataset.train)
    return warnings


def _parts(dataset: DataSet) -> dict[str, Samples]:
    parts = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    return parts if dataset.unlabelled is None else {**parts, "unlabelled": dataset.unlabelled}


def _listed(names: Sequence[object]) -> str:
    return ", ".join(map(str, names[:_NAMED])) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _check_shapes(parts: dict[str, Samples], dataset: DataSet) -> None:
    for name, samples in parts.items():
        if raw_shape(samples) != tuple(dataset.input_shape) or raw_dtype(samples) != raw_dtype(dataset.train):
            raise DataError(
                f"the {name} part's inputs are {raw_shape(samples)} {raw_dtype(samples)}, the training part's {tuple(dataset.input_shape)}"
                f" {raw_dtype(dataset.train)}",
                where=dataset.source,
                fix="give all parts the same channels, size and type",
            )
    if dataset.modality == "image" and dataset.input_shape[0] not in (1, 3):
        raise DataError(f"pictures have {dataset.input_shape[0]} channels", where=dataset.source, fix="pictures are grey (1) or RGB (3)")


def _check_labels(parts: dict[str, Samples], dataset: DataSet) -> None:
    for name, samples in parts.items():
        if name == "unlabelled":
            continue
        bad = _out_of_range(samples.labels, dataset)
        if bool(bad.any()):
            row = int(bad.nonzero()[0, 0])
            value = samples.labels[row].tolist()
            raise DataError(f"label {value} is {_allowed(dataset)}", where=f"{dataset.source}, {name} sample '{samples.ids[row]}'")
    if "train" not in parts:
        return
    labels = parts["train"].labels
    if dataset.task == "classification":
        seen = torch.unique(labels[labels >= 0])
        if len(seen) < 2:
            only = f"the only one is '{dataset.classes[int(seen[0])]}'" if len(seen) else "no sample has a label"
            raise DataError(f"there is nothing to tell apart: {only}", where=dataset.source, fix="give samples of at least two classes")
    if dataset.task == "regression":
        spread = labels.amax(0) - labels.amin(0)
        if bool((spread == 0).any()):
            number = int((spread == 0).nonzero()[0, 0])
            name = dataset.target.names[number] if dataset.target else str(number)
            raise DataError(
                f"the target '{name}' is {float(labels[0, number]):g} everywhere", where=dataset.source, fix="give a target that varies"
            )


def _out_of_range(labels: Tensor, dataset: DataSet) -> Tensor:
    if dataset.task == "classification":
        return (labels < 0) | (labels >= len(dataset.classes)) if not float_labels(labels) else torch.ones(len(labels), dtype=torch.bool)
    rows = labels.reshape(len(labels), -1)
    if dataset.task == "multilabel":
        return ~((rows == 0) | (rows == 1)).all(1) | (rows.shape[1] != len(dataset.classes))
    return ~rows.isfinite().all(1)


def _allowed(dataset: DataSet) -> str:
    if dataset.task == "classification":
        return f"not one of the class numbers 0 to {len(dataset.classes) - 1}"
    return "not a row of 0 and 1, one per class" if dataset.task == "multilabel" else "not a finite number"


def _chunks(samples: Samples) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(samples), _CHUNK):
        yield start, samples.raw(range(start, min(start + _CHUNK, len(samples))))


def _check_finite(parts: dict[str, Samples], dataset: DataSet) -> None:
    for name, samples in parts.items():
        if not raw_dtype(samples).is_floating_point:
            continue
        for start, raw in _chunks(samples):
            bad = ~raw.reshape(len(raw), -1).isfinite().all(1)
            if bool(bad.any()):
                identity = samples.ids[start + int(bad.nonzero()[0, 0])]
                raise DataError(
                    "NaN or infinity in the inputs", where=f"{dataset.source}, {name} sample '{identity}'", fix="fill or remove it"
                )


def _counts(samples: Samples, dataset: DataSet) -> np.ndarray:
    """Labelled samples per class."""
    if dataset.task == "multilabel":
        return samples.labels.nan_to_num(0).sum(0).long().numpy()
    return np.bincount(samples.labels[samples.labels >= 0].numpy(), minlength=len(dataset.classes))


def _class_counts(parts: dict[str, Samples], dataset: DataSet) -> list[str]:
    if dataset.task == "regression":
        return []
    counts = {name: _counts(parts[name], dataset) for name in ("train", "val", "test")}
    total = sum(counts.values())
    assert isinstance(total, np.ndarray)
    warnings = []

    def say(which: np.ndarray, what: str) -> None:
        names = [dataset.classes[number] for number in np.flatnonzero(which)]
        if names:
            warnings.append(f"{len(names)} of {len(total)} classes {what}: {_listed(names)}")

    say(total == 0, "have no labelled sample at all; if labels start at 1, subtract 1")
    say((counts["train"] == 0) & (total > 0), "have no labelled training sample")
    say((total == 1) & (counts["train"] == 1), "have a single sample, which can't be split: it is trained on and never measured")
    say((counts["test"] == 0) & (total > 1) & (counts["train"] > 0), "have no test sample, so the report says nothing about them")
    if dataset.task == "multilabel":
        say((counts["train"] == len(parts["train"])), "are set in every training sample, so nothing can be learnt about them")
    return warnings


def _shared_pictures(parts: dict[str, Samples]) -> list[str]:
    """Bit-identical pictures (of files: identical files) in two parts; a test picture that was trained on flatters the result."""
    by_content: dict[str, dict[bytes, object]] = {}
    for name, samples in parts.items():
        first: dict[bytes, object] = {}
        for digest, identity in zip(digests(samples), samples.ids, strict=True):
            first.setdefault(bytes(digest), identity)
        by_content[name] = first
    warnings = []
    for one, other in (("train", "test"), ("train", "val"), ("val", "test"), ("unlabelled", "test"), ("unlabelled", "val")):
        if one in by_content and other in by_content:
            shared = [digest for digest in by_content[other] if digest in by_content[one]]
            if shared:
                pairs = _listed([f"{by_content[one][digest]} = {by_content[other][digest]}" for digest in shared])
                warnings.append(f"{len(shared)} identical pictures in {one} and {other}: {pairs}")
    return warnings


def _constant_columns(train: Samples) -> list[str]:
    first = train.raw([0])[0]
    constant = torch.ones_like(first, dtype=torch.bool)
    for _, raw in _chunks(train):
        constant &= (raw == first).all(0)
    columns = constant.nonzero()[:, 0].tolist()
    return [f"{len(columns)} columns are constant in the training part and tell nothing: {_listed(columns)}"] if columns else []
