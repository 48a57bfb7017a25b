"""Inputs that a run keeps for later: where the data were objects, there is no other way to calibrate and judge an export."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from transfuse.core.card import TaskName
from transfuse.core.types import DataSet, Model, Samples
from transfuse.data import samples as pools
from transfuse.data.samples import ArraySamples
from transfuse.errors import ExportError
from transfuse.jobs.deliver.export import Shipment, spread
from transfuse.jobs.rundir import RunDir, replacing

TRAINING_INPUTS = 256  # evenly spread over the training pool
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


def keep_training_inputs(rundir: RunDir, data: DataSet) -> None:
    """samples/train.npz: raw training inputs, of a job whose data can't be opened again by their source."""
    pool = data.train if data.unlabelled is None else pools.concat(data.train, data.unlabelled)
    chosen = spread(pool, TRAINING_INPUTS)
    inputs = chosen.raw(range(len(chosen))).numpy()
    with replacing(rundir.samples / "train.npz") as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, ids=chosen.ids, inputs=inputs)


def kept_shipment(rundir: RunDir, model: Model, task: TaskName) -> Shipment:
    """A shipment judged on the test inputs that a run kept, and calibrated on the training inputs that it kept.

    Raises:
        ExportError: it kept none.
    """
    path = rundir.samples / "samples.npz"
    try:
        ids, inputs = _read(path)
        with np.load(rundir.predictions / "student.npz") as stored:
            found = dict(zip(map(str, stored["ids"].tolist()), stored["labels"], strict=True))
        labels = torch.from_numpy(np.stack([found[str(name)] for name in ids.tolist()]))
    except _DAMAGED as error:
        what = "the run's data were objects, and it kept no inputs that could be opened"
        raise ExportError(what, where=str(path), fix="give the data: transfuse.export(run, ..., data=...)") from error
    parts: dict[str, Samples] = {}
    try:
        ids_of_train, train = _read(rundir.samples / "train.npz")
        parts["train"] = ArraySamples(train, torch.full((len(train),), -1), ids_of_train)
    except _DAMAGED:
        pass  # targets that calibrate say that there is nothing to calibrate on
    split = f"{len(ids):,} test samples that the run kept, those on which student and teacher differ first"
    return Shipment(model, task, ArraySamples(inputs, labels, ids), split, parts)  # pyright: ignore[reportArgumentType]


def _read(path: Path) -> tuple[np.ndarray, Tensor]:
    with np.load(path) as stored:
        return stored["ids"], torch.from_numpy(stored["inputs"])
