"""transfuse predict: a student's answers about files, one after the other, in memory that doesn't grow with their number."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from transfuse.core.card import TaskName
from transfuse.core.preprocess import Preprocess
from transfuse.data.decode import is_picture_name
from transfuse.errors import DataError, ModelError
from transfuse.evaluate.predict import original_units
from transfuse.jobs.context import read_figures
from transfuse.jobs.parts.inputs import ARRAYS, TABLES, Entry, Reading, Unread, read
from transfuse.jobs.parts.loading import open_anything
from transfuse.jobs.rundir import RunDir

Modality = Literal["image", "columns"]


@dataclass
class Student:
    """A model that is ready to be asked.

    Attributes:
        network: preprocessed inputs -> logits.
        preprocess: its own.
        task: what its outputs mean.
        classes: names of its outputs, or of a regression's targets.
        modality: what it takes, where that is known.
        columns: how many columns it takes, where that is known.
        target: scaling of a regression's outputs, where there is one.
        name: what messages call it.
    """

    network: nn.Module
    preprocess: Preprocess
    task: TaskName
    classes: list[str]
    modality: Modality | None
    columns: int | None
    target: Any
    name: str

    @classmethod
    def open(cls, source: str | Path, trusted: bool = False) -> Student:
        """Opens whatever `transfuse.load` opens.

        Raises:
            ModelError: there is nothing to open, or nothing that could be asked.
        """
        model = open_anything(source, trusted)
        if model.module is None:
            raise ModelError("a table of predictions can't be asked about new inputs", where=str(source))
        preprocess = model.preprocess
        if preprocess is None:
            fix = "give a run folder or an export, which know how their inputs are made"
            raise ModelError("it doesn't say how its inputs are preprocessed", where=str(source), fix=fix)
        shape: tuple[int, ...] = tuple(model.options.get("input_shape") or ())
        image = preprocess.size is not None or preprocess.channels is not None or len(shape) == 3
        modality: Modality | None = "image" if image else "columns" if len(shape) == 1 else None
        names = model.target.names if model.target is not None else model.classes
        columns = next(iter(shape), None) if modality == "columns" else None
        task = _task(source, model.target is not None)
        return cls(model.network.eval(), preprocess, task, list(names or []), modality, columns, model.target, str(source))


def _task(source: str | Path, has_target: bool) -> TaskName:
    """As the run's summary or the .json beside the file says; else classification."""
    path = Path(str(source).removeprefix("run:").removeprefix("file:").removeprefix("onnx:").partition("#")[0]).expanduser()
    if (path / "summary.json").is_file():
        return RunDir(path).read_summary().get("task", "classification")
    beside = path / "student.json" if path.is_dir() else path.with_suffix(".json")
    told: Any = read_figures(beside).get("task")
    return told if told in get_args(TaskName) else "regression" if has_target else "classification"


def found(inputs: Sequence[str], student: Student) -> Iterator[Path]:
    """The files that the inputs name: files themselves, pictures below folders, matches of patterns; lazily, in order.

    Raises:
        DataError: no inputs, an input that names nothing, or that holds nothing that the model takes; before anything is read.
    """
    if not inputs:
        raise DataError("there is nothing to predict on", fix="name pictures, a CSV file, an array, a folder or a pattern")
    for given in inputs:
        if next(_matches(given, student), None) is None:
            kind = "pictures" if student.modality != "columns" else "CSV files or arrays"
            what = f"no {kind} there" if Path(given).expanduser().is_dir() else "no such file"
            raise DataError(what, where=given, fix="check the path; patterns are quoted: 'photos/*.jpg', in class folders 'photos/*/*.jpg'")
    return (path for given in inputs for path in _matches(given, student))


def _matches(given: str, student: Student) -> Iterator[Path]:
    path = Path(given).expanduser()
    if path.is_dir():
        yield from _below(path, student)
    elif path.exists():
        yield path
    elif glob.has_magic(given):
        for match in sorted(glob.glob(str(path), recursive=True)):
            yield from _below(Path(match), student) if Path(match).is_dir() else [Path(match)]


def _below(folder: Path, student: Student) -> Iterator[Path]:
    """Files of a kind that the model takes, folder by folder; hidden ones are left out."""
    entries = sorted(folder.iterdir())
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _below(entry, student)
        elif is_picture_name(entry) if student.modality != "columns" else entry.suffix.lower() in (*TABLES, *ARRAYS):
            yield entry


def answers(
    student: Student, paths: Iterable[Path], batch_size: int = 32, columns: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """A row for each input, in order; inputs that can't be read, or that the network can't take, get an "error".

    Args:
        student: who is asked.
        paths: files; read as they are needed.
        batch_size: inputs that are asked about together.
        columns: names of a table's columns in the model's order; None: all but `id`.

    Raises:
        DataError: a file of a kind that the model can't take, or a table without the columns.
    """
    waiting: list[Entry | Unread] = []
    reading = Reading(student.preprocess, student.modality, student.columns, columns)
    for path in paths:
        for entry in read(path, reading):
            if waiting and not _together(waiting, entry):
                yield from _asked(student, waiting)
                waiting = []
            waiting.append(entry)
            if len(waiting) == batch_size:
                yield from _asked(student, waiting)
                waiting = []
    yield from _asked(student, waiting)


def _together(waiting: Sequence[Entry | Unread], entry: Entry | Unread) -> bool:
    """Whether an input has the shape of those before it, so that one batch holds them all."""
    shape = next((one.values.shape for one in waiting if isinstance(one, Entry)), None)
    return isinstance(entry, Unread) or shape is None or entry.values.shape == shape


def _asked(student: Student, entries: Sequence[Entry | Unread]) -> Iterator[dict[str, Any]]:
    readable = [entry for entry in entries if isinstance(entry, Entry)]
    rows = iter(_answers(student, readable))
    for entry in entries:
        yield {"input": entry.name, **(next(rows) if isinstance(entry, Entry) else {"error": entry.reason})}


def _answers(student: Student, entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Answers, or errors where the network can't take an input; a batch that fails is tried input by input."""
    if not entries:
        return []
    try:
        with torch.inference_mode():
            outputs = student.network(torch.cat([entry.values for entry in entries])).float().cpu()
    except Exception as error:  # a network, or a runtime, can refuse a shape with any exception
        if len(entries) > 1:
            return [row for entry in entries for row in _answers(student, [entry])]
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        return [{"error": f"the model can't take an input of shape {tuple(entries[0].values.shape[1:])}: {first}"}]
    return [in_words(student, row) for row in outputs]


def in_words(student: Student, outputs: Tensor) -> dict[str, Any]:
    """One input's outputs by name."""
    if student.task == "regression":
        values = original_units(outputs[None], student.target)[0] if student.target is not None else outputs
        return {"predictions": dict(zip(_names(student, len(values)), values.tolist(), strict=True))}
    if student.task == "multilabel":
        probabilities = outputs.double().sigmoid().tolist()
        by_name = dict(zip(_names(student, len(probabilities)), probabilities, strict=True))
        return {"classes": [name for name, value in by_name.items() if value > 0.5], "probabilities": by_name}
    logits = torch.stack([torch.zeros_like(outputs[0]), outputs[0]]) if len(outputs) == 1 else outputs
    probabilities = logits.double().softmax(0).tolist()
    best = int(logits.argmax())
    names = _names(student, len(probabilities))
    return {"class": names[best], "probability": probabilities[best], "probabilities": dict(zip(names, probabilities, strict=True))}


def _names(student: Student, count: int) -> list[str]:
    return student.classes if len(student.classes) == count else [str(number) for number in range(count)]
