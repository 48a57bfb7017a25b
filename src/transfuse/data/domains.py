"""A source and a target data set brought to one form: the same classes in the same order, one picture size, one number of channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from transfuse.core.registry import did_you_mean
from transfuse.core.types import DataSet, Samples, float_labels
from transfuse.data.samples import concat, no_labels, raw_dtype, relabel, with_channels
from transfuse.errors import DataError

_NAMED = 5  # classes that a message lists


def common_side(source: DataSet, target: DataSet) -> int | None:
    """Side in pixels at which both hold their pictures without losing any: the longest of all; None where they agree already."""
    shapes = source.input_shape[1:], target.input_shape[1:]
    if not source.modality == target.modality == "image" or shapes[0] == shapes[1]:
        return None
    return max(*shapes[0], *shapes[1])


def paired(source: DataSet, target: DataSet) -> tuple[DataSet, DataSet, list[str]]:
    """Both data sets in one form, with the same classes, and notes on what was changed.

    The target's class numbers (or columns of labels, or regression targets) are put into the source's order, by name. Grey pictures beside
    RGB ones become RGB. Both get the source's normalisation and, for regression, its scaling.

    Raises:
        DataError: as `side_by_side`, or other classes.
    """
    source, target, notes = side_by_side(source, target, same_classes=True)
    return source, replace(target, preprocess=source.preprocess, target=source.target), notes


def side_by_side(source: DataSet, target: DataSet, same_classes: bool) -> tuple[DataSet, DataSet, list[str]]:
    """Both data sets in one form, each with its own statistics, and notes on what was changed.

    Args:
        source, target: as they were opened.
        same_classes: whether they need the same classes (columns of labels, regression targets), in the source's order.

    Raises:
        DataError: another task, kind of input or type; other classes where they have to be the same; tables with other columns; pictures
            of other sizes (see `common_side`); the same samples in both.
    """
    _refuse_other_kinds(source, target)
    notes: list[str] = []
    if same_classes:
        target = _reordered(source, target, notes)
    if source.modality == "image":
        source, target = _one_colour(source, target, notes)
    if source.input_shape != target.input_shape:
        what = f"the source's inputs are {source.input_shape}, the target's {target.input_shape}"
        fix = "give pictures of one size" if source.modality == "image" else "give both the same columns, in the same order"
        raise DataError(what, where="target", fix=fix)
    types = raw_dtype(source.train), raw_dtype(target.train)
    if types[0] != types[1]:
        what = f"the source's inputs are {_type(types[0])}, the target's {_type(types[1])}"
        raise DataError(what, where="target", fix="give both as 8-bit numbers, or both as floats of the same range")
    if source.train.fingerprint == target.train.fingerprint:
        raise DataError("source and target hold the same samples: there is one domain only", where="target", fix="name another data set")
    return source, target, notes


def same_names(source: DataSet, target: DataSet) -> bool:
    """Whether both have the same classes, or targets, whatever their order."""
    return sorted(_names(source)) == sorted(_names(target))


def differing(source: DataSet, target: DataSet) -> str:
    """In which names two sets differ, for a note."""
    return _clash(_names(source), _names(target), "targets" if source.target else "classes")[0]


def training_pools(source: DataSet, target: DataSet, target_labels: bool) -> tuple[Samples, Samples]:
    """All training samples of each domain, unlabelled ones included; the target's labels are taken away unless they may be used."""
    first, second = (part.train if part.unlabelled is None else concat(part.train, part.unlabelled) for part in (source, target))
    return first, second if target_labels else relabel(second, no_labels(second.labels))


def _refuse_other_kinds(source: DataSet, target: DataSet) -> None:
    if source.task != target.task:
        what = f"the source's task is {source.task}, the target's {target.task}"
        raise DataError(what, where="target", fix="both need labels of one kind; say which with source.task and target.task")
    if source.modality != target.modality:
        what = f"the source's inputs are {source.modality}, the target's {target.modality}"
        raise DataError(what, where="target", fix="give inputs of one kind")


def _reordered(source: DataSet, target: DataSet, notes: list[str]) -> DataSet:
    wanted, given = _names(source), _names(target)
    if wanted == given:
        return target
    if sorted(wanted) != sorted(given):
        raise DataError(*_clash(wanted, given, "targets" if source.target else "classes"))
    order = [given.index(name) for name in wanted]
    places = torch.tensor([wanted.index(name) for name in given])

    def change(labels: Tensor) -> Tensor:
        if float_labels(labels):
            return labels[:, order]
        return torch.where(labels >= 0, places[labels.clamp(min=0)], labels)

    notes.append("the target's classes are the source's in another order: its labels were renumbered by name")
    return replace(_changed(target, lambda samples: relabel(samples, change(samples.labels))), classes=list(source.classes))


def _names(dataset: DataSet) -> list[str]:
    return dataset.target.names if dataset.target is not None else dataset.classes


def _clash(wanted: Sequence[str], given: Sequence[str], what: str) -> tuple[str, str, str]:
    """Message, place and fix for names of which one side lacks some."""
    only = {
        "source": [name for name in wanted if name not in given],
        "target": [name for name in given if name not in wanted],
    }
    told = "; ".join(f"only in the {side}: {_listed(names)}" for side, names in only.items() if names)
    hint = did_you_mean(only["target"][0], only["source"]) if only["target"] and only["source"] else ""
    fix = f"rename them{hint}, or leave out the samples of {what} that only one of them has"
    return f"source and target differ in their {what} ({told})", "target", fix


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _one_colour(source: DataSet, target: DataSet, notes: list[str]) -> tuple[DataSet, DataSet]:
    channels = max(source.input_shape[0], target.input_shape[0])
    found = []
    for name, part in (("source", source), ("target", target)):
        if part.input_shape[0] != channels:
            notes.append(f"the {name}'s grey pictures are shown in {channels} equal channels, as the other domain's have {channels}")
            part = _changed(part, lambda samples: with_channels(samples, channels))
            part = replace(part, input_shape=(channels, *part.input_shape[1:]), preprocess=replace(part.preprocess, channels=channels))
        found.append(part)
    return found[0], found[1]


def _changed(dataset: DataSet, change: Callable[[Samples], Samples]) -> DataSet:
    unlabelled = None if dataset.unlabelled is None else change(dataset.unlabelled)
    return replace(dataset, train=change(dataset.train), val=change(dataset.val), test=change(dataset.test), unlabelled=unlabelled)


def _type(dtype: torch.dtype) -> str:
    return "8-bit numbers" if dtype == torch.uint8 else "floats"
