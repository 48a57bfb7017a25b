"""What every source has in common once it is read: splits, label budget, more unlabelled inputs, statistics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from transfuse.core.types import DataParts, DataRequest, DataSet, Samples, float_labels
from transfuse.data import registry
from transfuse.data.live import read_live
from transfuse.data.locate import inside
from transfuse.data.samples import concat, no_labels, raw_dtype, raw_shape, relabel, rename, subset
from transfuse.data.splits import folds, held_out, label_budget, refuse_single, strata
from transfuse.data.statistics import fit_preprocess, fit_target
from transfuse.errors import DataError


def read(source: Any, request: DataRequest, labels_wanted: bool = True) -> DataParts:
    """A recipe's string or live objects -> parts.

    Args:
        source: as in `open_data`.
        request: passed on to the source.
        labels_wanted: whether live inputs without labels are an error.

    Raises:
        DataError: as in `open_data`.
    """
    if not isinstance(source, str):
        return read_live(source, request, labels_wanted)
    prefix, colon, name = source.partition(":")
    if not colon:
        raise DataError(f"'{source}' has no kind of source before it", where="data.source", fix=_guess(source))
    return registry.module(prefix).open_data(name, request)


def _guess(source: str) -> str:
    path = Path(source).expanduser()
    prefix = "images" if source and path.is_dir() else "arrays" if path.suffix == ".npz" else None
    return f"write {prefix}:{source}" if prefix else f"write KIND:{source or 'NAME'}, with KIND one of {', '.join(registry.names())}"


def assemble(parts: DataParts, request: DataRequest, source: str) -> DataSet:
    """Splits parts where the source doesn't, spends the label budget, and fits statistics on the training part.

    Raises:
        DataError: no labels at all, too few samples to split, parts that don't go together.
    """
    notes = list(parts.notes)
    _check_ids(parts, source)
    labelled, rest = _by_label(parts.train)
    if len(labelled) == 0 and request.train_labels:
        raise DataError("no sample has a label", where=source, fix="give labels, or use it as `data.unlabelled` beside labelled data")
    if len(labelled) == 0:
        return _never_labelled(parts, request, source, notes)
    train, val, test = _split(replace(parts, train=labelled), request, notes)
    pool = train if rest is None else concat(train, rest)
    preprocess = fit_preprocess(pool, parts.modality, request.split_seed)
    train, rest = _spend_budget(train, rest, parts, request, notes)
    if request.fold is not None:
        train, test = _fold_out(train, parts, request, notes)
        preprocess = fit_preprocess(train if rest is None else concat(train, rest), parts.modality, request.split_seed)
    own = None if parts.unlabelled is None else _without_labels(parts.unlabelled, train)
    unlabelled = _joined(rest, own) if own is not None else rest
    if request.unlabelled is not None:
        unlabelled = _joined(unlabelled, _more_unlabelled(train, unlabelled, request, parts, notes))
    return DataSet(
        train=train,
        val=val,
        test=test,
        unlabelled=unlabelled,
        task=parts.task,
        classes=parts.classes,
        modality=parts.modality,
        input_shape=raw_shape(train),
        preprocess=preprocess,
        source=source,
        target=fit_target(train.labels, parts.targets) if parts.task == "regression" else None,
        notes=notes,
    )


def _never_labelled(parts: DataParts, request: DataRequest, source: str, notes: list[str]) -> DataSet:
    """A training part of which no label is known, beside parts that have labels; without a validation part of its own, it is carved
    from test."""
    if request.fold is not None:
        fix = "leave validate out, or label some training samples: they are then for the report alone"
        raise DataError("no training sample has a label, so there is nothing to judge a fold by", where="validate.folds", fix=fix)
    test = _only_labelled(parts.test if parts.test is not None else parts.val, "test", notes)
    if test is None:
        fix = "label some samples, or give a test part with labels: the report is made from them"
        raise DataError("no sample of any part has a label", where=source, fix=fix)
    val = _only_labelled(parts.val, "validation", notes) if parts.test is not None else None
    if val is None:
        test, val = _carve(test, parts, request.val, request.split_seed, "val")
        carved = f"validation: {len(val)} samples carved from test, stratified, seed {request.split_seed}"
        notes.append(f"no training sample has a label; {carved}")
    else:
        notes.append("no training sample has a label")
    return DataSet(
        train=parts.train,
        val=val,
        test=test,
        unlabelled=None if parts.unlabelled is None else _without_labels(parts.unlabelled, parts.train),
        task=parts.task,
        classes=parts.classes,
        modality=parts.modality,
        input_shape=raw_shape(parts.train),
        preprocess=fit_preprocess(parts.train, parts.modality, request.split_seed),
        source=source,
        target=fit_target(test.labels, parts.targets) if parts.task == "regression" else None,
        notes=notes,
    )


def _labelled_rows(labels: Tensor) -> Tensor:
    return ~labels.isnan().any(1) if float_labels(labels) else labels >= 0


def _by_label(samples: Samples) -> tuple[Samples, Samples | None]:
    rows = _labelled_rows(samples.labels)
    if bool(rows.all()):
        return samples, None
    return subset(samples, rows.nonzero()[:, 0]), subset(samples, (~rows).nonzero()[:, 0])


def _only_labelled(samples: Samples | None, part: str, notes: list[str]) -> Samples | None:
    if samples is None:
        return None
    labelled, rest = _by_label(samples)
    if rest is not None:
        notes.append(f"{len(rest)} of {len(samples)} samples of the {part} part have no label and are left out")
    return labelled if len(labelled) else None


def _split(parts: DataParts, request: DataRequest, notes: list[str]) -> tuple[Samples, Samples, Samples]:
    train = parts.train
    val, test = _only_labelled(parts.val, "validation", notes), _only_labelled(parts.test, "test", notes)
    for part, samples in (("validation", val), ("test", test)):
        if samples is not None and (raw_shape(samples), raw_dtype(samples)) != (raw_shape(train), raw_dtype(train)):
            raise DataError(f"the {part} part's inputs are {raw_shape(samples)}, the training part's {raw_shape(train)}")
    if test is None and val is not None:
        notes.append("there is no test part: the validation part became test, and validation is carved from train")
        test, val = val, None
    if test is None:
        train, test = _carve(train, parts, request.test, request.split_seed, "test")
        notes.append(f"test: {len(test)} samples held out at random, stratified, seed {request.split_seed}")
    if val is None:
        train, val = _carve(train, parts, request.val, request.split_seed, "val")
        notes.append(f"validation: {len(val)} samples carved from train, stratified, seed {request.split_seed}")
    return train, val, test


def _carve(train: Samples, parts: DataParts, fraction: float, seed: int, purpose: str) -> tuple[Samples, Samples]:
    out = held_out(strata(train.labels, parts.task, fraction), fraction, seed, purpose)
    return subset(train, np.flatnonzero(~out)), subset(train, np.flatnonzero(out))


def _spend_budget(
    train: Samples, rest: Samples | None, parts: DataParts, request: DataRequest, notes: list[str]
) -> tuple[Samples, Samples | None]:
    if request.labels_per_class is None:
        return train, rest
    where = "data.labels_per_class"
    if parts.task != "classification":
        raise DataError(f"a {parts.task} sample has no single class to count", where=where, fix="leave it out")
    kept, short = label_budget(train.labels, request.labels_per_class, request.split_seed)
    if short:
        names = ", ".join(parts.classes[number] for number in short[:5])
        notes.append(
            f"{len(short)} classes have fewer than {request.labels_per_class} labels to keep: {names}{' …' if len(short) > 5 else ''}"
        )
    if kept.all():
        return train, rest
    spare = subset(train, np.flatnonzero(~kept))
    notes.append(f"{kept.sum()} labels kept ({request.labels_per_class} per class), {len(spare)} training samples became unlabelled")
    spare = _without_labels(spare, train)
    return subset(train, np.flatnonzero(kept)), spare if rest is None else concat(spare, rest)


def _fold_out(train: Samples, parts: DataParts, request: DataRequest, notes: list[str]) -> tuple[Samples, Samples]:
    """The training part without one of its folds, and that fold, which stands where the test part stood."""
    assert request.fold is not None
    number, count = request.fold
    if parts.task == "classification":
        refuse_single(train.labels.numpy(), parts.classes, "validate.folds")
    held = folds(strata(train.labels, parts.task, 1 / count), count, request.split_seed, "folds") == number - 1
    notes.append(f"fold {number} of {count}: {int(held.sum())} training samples are held out in the test part's place, which nobody sees")
    return subset(train, np.flatnonzero(~held)), subset(train, np.flatnonzero(held))


def _more_unlabelled(train: Samples, unlabelled: Samples | None, request: DataRequest, parts: DataParts, notes: list[str]) -> Samples:
    """Another source's samples as inputs without labels; its own held-out parts stay out."""
    where = "data.unlabelled"
    shape = raw_shape(train)
    side = shape[-1] if parts.modality == "image" and shape[-1] == shape[-2] else None
    with inside(where):
        more = read(request.unlabelled, replace(request, unlabelled=None, size=side, task="auto"), labels_wanted=False)
    if more.val is not None or more.test is not None:
        notes.append("unlabelled: the validation and test parts of that source are left out")
    found = _without_labels(more.train, train)
    if more.unlabelled is not None:
        found = concat(found, _without_labels(more.unlabelled, train))
    if raw_shape(found) != raw_shape(train) or raw_dtype(found) != raw_dtype(train):
        raise DataError(
            f"its inputs are {raw_shape(found)} {raw_dtype(found)}, the labelled ones {raw_shape(train)} {raw_dtype(train)}",
            where=where,
            fix="give inputs of the same channels, size and type",
        )
    taken = {
        str(name) for samples in (train, unlabelled, parts.train, parts.val, parts.test) if samples is not None for name in samples.ids
    }
    if taken.isdisjoint(map(str, found.ids)):
        return found
    return rename(found, np.array([f"unlabelled/{name}" for name in found.ids]))


def _without_labels(samples: Samples, like: Samples) -> Samples:
    """The same samples with empty labels in the form of others'."""
    return relabel(samples, no_labels(like.labels.new_empty((len(samples), *like.labels.shape[1:]))))


def _joined(first: Samples | None, second: Samples) -> Samples:
    return second if first is None else concat(first, second)


def _check_ids(parts: DataParts, source: str) -> None:
    """A prediction is keyed by its sample's id, so no two samples of any part may share one."""
    seen: set[str] = set()
    for samples in (parts.train, parts.val, parts.test, parts.unlabelled):
        if samples is None:
            continue
        for name in map(str, samples.ids):
            if name in seen:
                raise DataError(f"two samples have the id '{name}'", where=source, fix="give every sample of every part an id of its own")
            seen.add(name)
