"""transfuse export: a trained student -> files in other formats, each opened, run on real samples and compared before it counts."""

from __future__ import annotations

import copy
import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transfuse.core import ranks
from transfuse.core.card import TaskName
from transfuse.core.protocols import Exporter
from transfuse.core.shipping import ExportRequest, Part
from transfuse.core.types import DataSet, Model, Progress, Samples
from transfuse.data import samples as pools
from transfuse.errors import ExportError, MissingExtra, ModelError, TransfuseError
from transfuse.export import get
from transfuse.export.verify import Judge, mark_failed, verify
from transfuse.jobs.context import Context
from transfuse.jobs.rundir import remove, write_json

VERDICT = "verify.json"
MOST_SAMPLES = 2000  # on which a file is run; spread evenly over the test part where that is larger
_BATCH = 32
Settings = Mapping[str, Mapping[str, Any]]
"""target -> all of its settings"""


@dataclass
class Shipment:
    """A student and what its files are calibrated and judged on.

    Attributes:
        model: trained, with preprocessing.
        task: what its outputs mean.
        judged: real samples, with labels where there are some.
        split: what they are, in words.
        parts: samples to calibrate on, by the name of their part; those that are not at hand are absent.
    """

    model: Model
    task: TaskName
    judged: Samples
    split: str
    parts: Mapping[Part, Samples]


def of_job(student: Model, data: DataSet) -> Shipment:
    """The shipment of a job whose data are open: judged on the test part, calibrated on all that it learnt from."""
    train = data.train if data.unlabelled is None else pools.concat(data.train, data.unlabelled)
    test, split = spread(data.test, MOST_SAMPLES), "test"
    if len(test) < len(data.test):
        split = f"{len(test):,} of the test part's {len(data.test):,}, evenly spread"
    return Shipment(student, data.task, test, split, {"train": train, "val": data.val})


def spread(samples: Samples, most: int) -> Samples:
    """At most so many samples, evenly spread over all."""
    if len(samples) <= most:
        return samples
    return pools.subset(samples, torch.linspace(0, len(samples) - 1, most).round().long())


def rehearse(targets: Sequence[Settings], student: Model, data: DataSet) -> None:
    """What could make an export fail after the training, tried before it on the untrained network; writes nothing.

    Raises:
        MissingExtra: a target's package is not installed.
        ExportError: the network can't be had in a format.
    """
    if not targets or ranks.rank() != 0:
        return
    shipment = of_job(student, data)
    for name, settings in _each(targets):
        exporter = made(name, settings)
        with _named(name):
            exporter.rehearse(_request(shipment, Path()))


def at_end(context: Context, targets: Sequence[Settings], student: Model, data: DataSet) -> list[TransfuseError]:
    """Ships what a job's recipe asks for, after its figures are written. A target that was shipped already is skipped.

    Returns:
        What went wrong, for `refuse`: report and card are written first, since the training was not in vain.
    """
    if not targets or ranks.rank() != 0:
        return []
    return ship_all(context, unshipped(targets, context.rundir.exports), of_job(student, data))


def ship_all(context: Context, targets: Sequence[Settings], shipment: Shipment) -> list[TransfuseError]:
    """Ships every target into the run folder; gives what went wrong, for `refuse`."""
    failed = []
    for name, settings in _each(targets):
        try:
            ship(shipment, name, settings, context.rundir.exports / name, context)
        except TransfuseError as error:
            context.say(f"export {name}: {error.what}")
            failed.append(error)
    return failed


def unshipped(targets: Sequence[Settings], exports: Path) -> list[Settings]:
    """The targets that a run folder has no verdict about yet."""
    return [entry for entry in targets if not (exports / next(iter(entry)) / VERDICT).exists()]


def refuse(failed: Sequence[TransfuseError]) -> None:
    """Ends a job whose export failed.

    Raises:
        TransfuseError: the first failure.
    """
    if failed:
        raise failed[0]


def made(name: str, settings: Mapping[str, Any]) -> Exporter:
    """A target with its settings.

    Raises:
        MissingExtra: its package is not installed.
    """
    exporter: Any = get(name)
    for package in exporter.packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(package, "torchao" if package == "torchao" else "export", f"export to {name}")
    return exporter(**settings)


def ship(shipment: Shipment, name: str, settings: Mapping[str, Any], folder: Path, context: Context) -> dict[str, Any]:
    """Writes one target, opens what was written, compares and times it, and keeps the verdict.

    Args:
        shipment: what, and what on.
        name: the target.
        settings: all of its settings.
        folder: where to; what an earlier export left there is replaced.
        context: who is told.

    Returns:
        The content of verify.json.

    Raises:
        ExportError: it can't be written in this format, or there, or what was written doesn't pass: the file is then called
            student.failed.*.
        ModelError: what was written can't be opened again.
        MissingExtra: the target's package is not installed.
    """
    exporter = made(name, settings)
    context.say(f"export {name}: writing")
    with _named(name), writing(folder):
        if (folder / VERDICT).exists():
            context.say(f"export {name}: the earlier export in {folder} is replaced")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / VERDICT).unlink(missing_ok=True)
        for old in folder.glob("student.*"):
            remove(old)
        written = exporter.write(_request(shipment, folder))
    judge = Judge(shipment.judged, shipment.split, shipment.task, exporter.marks, _listener(context, name))
    try:
        verdict = verify(shipment.model, written, exporter.open(folder), judge)
    except ModelError:
        mark_failed(folder, written.file)
        raise
    verdict = {"target": name, "settings": dict(settings), **verdict}
    if not verdict["passed"]:
        verdict["file"] = mark_failed(folder, written.file).name
    write_json(folder / VERDICT, verdict)
    for remark in verdict["remarks"]:
        context.say(f"export {name}: {remark}")
    if not verdict["passed"]:
        what = f"the written file doesn't pass: {'; '.join(verdict['failures'])}"
        raise ExportError(what, where=str(folder / verdict["file"]), fix=_advice(name, settings, folder))
    context.say(f"export {name}: {in_words(verdict, shipment.task)} ({folder / verdict['file']})")
    return verdict


def in_words(verdict: Mapping[str, Any], task: TaskName) -> str:
    """A file that passed, in one line; two regressions don't decide anything, so of them the largest difference is told."""
    size = f"{verdict['bytes'] / 1e6:.3g} MB" if verdict["bytes"] >= 1e6 else f"{verdict['bytes'] / 1e3:.3g} kB"
    same = f"largest difference {verdict['largest_difference']['relative']:.1g} of the largest output"
    if task != "regression" and verdict["agreement"] < 1:
        same = f"decides as the network does on {100 * verdict['agreement']:.2f}%"
    times = verdict["latency_ms"]
    speed = f"{times['p50']:.3g} ms a sample, {times['against']['the network in torch']['ratio']:.2f} times the network in torch"
    return f"verified on {verdict['samples']:,} samples: {same}; {size}, {speed}"


def _advice(name: str, settings: Mapping[str, Any], folder: Path) -> str:
    details = f"see {folder / VERDICT}"
    if "calibration" in settings:
        return f"calibrate on more samples or with method: entropy, or lower least_agreement and raise most_loss; {details}"
    if "least_agreement" in settings:
        return f"lower least_agreement and raise most_loss, or export to another format; {details}"
    return f"the exporter {name} got it wrong: please report it; {details}"


def _each(targets: Sequence[Settings]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return (next(iter(entry.items())) for entry in targets)


def _request(shipment: Shipment, folder: Path) -> ExportRequest:
    model = replace(shipment.model, module=copy.deepcopy(shipment.model.network).cpu().float().eval())
    assert model.preprocess is not None
    arrays = not pools.from_files(shipment.judged)
    if not shipment.parts:
        return ExportRequest(model, shipment.task, shipment.judged.raw([0]), None, folder, arrays)

    def calibration(most: int, part: Part) -> Iterator[Tensor]:
        if part not in shipment.parts:
            raise ExportError(f"there are no samples of the part '{part}' at hand", where="calibrate_on", fix="give the data: data=SOURCE")
        chosen = spread(shipment.parts[part], most)
        for start in range(0, len(chosen), _BATCH):
            yield chosen.exact(range(start, min(start + _BATCH, len(chosen))), preprocess)

    preprocess = model.preprocess
    return ExportRequest(model, shipment.task, shipment.judged.raw([0]), calibration, folder, arrays)


def _listener(context: Context, name: str) -> Callable[[int, int], None]:
    return lambda done, total: context.listen(Progress(f"export {name}", done, total, math.nan))


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Says where an export can't be written.

    Raises:
        ExportError: the folder can't be made, read or written, or the disk is full.
    """
    try:
        yield
    except OSError as error:
        fix = "choose another folder with out=FOLDER, or free some space"
        raise ExportError(f"can't be written: {error.strerror or error}", where=str(error.filename or folder), fix=fix) from error


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Puts the target's name in front of where an ExportError happened."""
    try:
        yield
    except ExportError as error:
        where = f"export {name}" + (f", {error.where}" if error.where and error.where != name else "")
        raise ExportError(error.what, where=where, fix=error.fix) from error
