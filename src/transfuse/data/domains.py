"""A source and a target data set brought to one form: the same classes in the same order, one picture size, one number of channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from transfuse.core.registry import did_you_mean
from transfuse.core.types import DataSet, Samples, float_labels
from transfuse.data.samples import concat, no_labels, raw_dtype, relabel, with_channels
from transfuse.errors import DataError

_NAMED = 5  # classes that a message lists


@dataclass(frozen=True)
class Called:
    """What messages call two data sets, as in "the NAME's inputs", and their recipe keys; what has to change is the second one."""

    first: str = "source"
    second: str = "target"
    first_key: str = "source"
    key: str = "target"


BOTH = Called()


def common_side(sets: Sequence[DataSet]) -> int | None:
    """Side in pixels at which all hold their pictures without losing any: the longest of all; None where they agree already."""
    shapes = {one.input_shape[1:] for one in sets}
    if any(one.modality != "image" for one in sets) or len(shapes) == 1:
        return None
    return max(side for shape in shapes for side in shape)


def paired(source: DataSet, target: DataSet) -> tuple[DataSet, DataSet, list[str]]:
    """Both data sets in one form, with the same classes, and notes on what was changed.

    The target's class numbers (or columns of labels, or regression targets) are put into the source's order, by name. Grey pictures beside
    RGB ones become RGB. Both get the source's normalisation and, for regression, its scaling.

    Raises:
        DataError: as `side_by_side`, or other classes.
    """
    source, target, notes = side_by_side(source, target, same_classes=True)
    return source, replace(target, preprocess=source.preprocess, target=source.target), notes


def side_by_side(first: DataSet, second: DataSet, same_classes: bool, called: Called = BOTH) -> tuple[DataSet, DataSet, list[str]]:
    """Both data sets in one form, each with its own statistics, and notes on what was changed.

    Args:
        first, second: as they were opened.
        same_classes: whether they need the same classes (columns of labels, regression targets), in the first one's order.
        called: what messages call them.

    Raises:
        DataError: another task, kind of input or type; other classes where they have to be the same; tables with other columns; pictures
            of other sizes (see `common_side`); the same samples under the same classes in both.
    """
    _refuse_other_kinds(first, second, called)
    notes: list[str] = []
    if same_classes:
        second = _reordered(first, second, called, notes)
    if first.modality == "image":
        first, second = _one_colour(first, second, called, notes)
    if first.input_shape != second.input_shape:
        what = f"the {called.first}'s inputs are {first.input_shape}, the {called.second}'s {second.input_shape}"
        fix = "give pictures of one size" if first.modality == "image" else "give both the same columns, in the same order"
        raise DataError(what, where=called.key, fix=fix)
    types = raw_dtype(first.train), raw_dtype(second.train)
    if types[0] != types[1]:
        what = f"the {called.first}'s inputs are {_type(types[0])}, the {called.second}'s {_type(types[1])}"
        raise DataError(what, where=called.key, fix="give both as 8-bit numbers, or both as floats of the same range")
    if first.train.fingerprint == second.train.fingerprint and same_names(first, second):  # other classes of the same inputs: another task
        what = f"{called.first} and {called.second} hold the same samples: there is one domain only"
        raise DataError(what, where=called.key, fix="name another data set")
    return first, second, notes


def same_names(source: DataSet, target: DataSet) -> bool:
    """Whether both have the same classes, or targets, whatever their order."""
    return sorted(_names(source)) == sorted(_names(target))


def differing(first: DataSet, second: DataSet, called: Called = BOTH) -> str:
    """In which names two sets differ, for a note."""
    return _clash(_names(first), _names(second), "targets" if first.target else "classes", called)[0]


def training_pools(source: DataSet, target: DataSet, target_labels: bool) -> tuple[Samples, Samples]:
    """All training samples of each domain, unlabelled ones included; the target's labels are taken away unless they may be used."""
    first, second = (part.train if part.unlabelled is None else concat(part.train, part.unlabelled) for part in (source, target))
    return first, second if target_labels else relabel(second, no_labels(second.labels))


def _refuse_other_kinds(first: DataSet, second: DataSet, called: Called) -> None:
    if first.task != second.task:
        what = f"the {called.first}'s task is {first.task}, the {called.second}'s {second.task}"
        raise DataError(
            what, where=called.key, fix=f"both need labels of one kind; say which with {called.first_key}.task and {called.key}.task"
        )
    if first.modality != second.modality:
        what = f"the {called.first}'s inputs are {first.modality}, the {called.second}'s {second.modality}"
        raise DataError(what, where=called.key, fix="give inputs of one kind")


def _reordered(first: DataSet, second: DataSet, called: Called, notes: list[str]) -> DataSet:
    wanted, given = _names(first), _names(second)
    if wanted == given:
        return second
    if sorted(wanted) != sorted(given):
        raise DataError(*_clash(wanted, given, "targets" if first.target else "classes", called))
    order = [given.index(name) for name in wanted]
    places = torch.tensor([wanted.index(name) for name in given])

    def change(labels: Tensor) -> Tensor:
        if float_labels(labels):
            return labels[:, order]
        return torch.where(labels >= 0, places[labels.clamp(min=0)], labels)

    same = f"the {called.second}'s classes are the {called.first}'s in another order"
    notes.append(f"{same}: its labels were renumbered by name")
    return replace(_changed(second, lambda samples: relabel(samples, change(samples.labels))), classes=list(first.classes))


def _names(dataset: DataSet) -> list[str]:
    return dataset.target.names if dataset.target is not None else dataset.classes


def _clash(wanted: Sequence[str], given: Sequence[str], what: str, called: Called) -> tuple[str, str, str]:
    """Message, place and fix for names of which one side lacks some."""
    only = [[name for name in wanted if name not in given], [name for name in given if name not in wanted]]
    sides = zip((called.first, called.second), only, strict=True)
    told = "; ".join(f"only in the {side}: {_listed(names)}" for side, names in sides if names)
    hint = did_you_mean(only[1][0], only[0]) if all(only) else ""
    fix = f"rename them{hint}, or leave out the samples of {what} that only one of them has"
    return f"{called.first} and {called.second} differ in their {what} ({told})", called.key, fix


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _one_colour(first: DataSet, second: DataSet, called: Called, notes: list[str]) -> tuple[DataSet, DataSet]:
    channels = max(first.input_shape[0], second.input_shape[0])
    found = []
    for name, part in ((called.first, first), (called.second, second)):
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
