"""What a run folder holds, read with patience: a missing or damaged file leaves a gap and a line that says so."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml

from transfuse.errors import RunError
from transfuse.report import checking

Value = TypeVar("Value")
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, yaml.YAMLError)


@dataclass
class Predictions:
    """One model's answers on the test split, as predictions/NAME.npz holds them."""

    ids: np.ndarray
    labels: np.ndarray
    outputs: np.ndarray


@dataclass
class Curve:
    """What one training run logged: rows of its training loss and of its validations, in order."""

    train: list[dict[str, Any]] = field(default_factory=list)
    val: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class RunFiles:
    """The content of a run folder.

    Attributes:
        path: the folder, as it was named.
        summary: summary.json.
        recipe: recipe.resolved.yaml as values; empty if unreadable.
        texts: "recipe.yaml" and "recipe.resolved.yaml" as they stand there.
        environment: env.json.
        student: student.json.
        auto: recipe key -> why `auto` became what it is.
        notes: what was said during the run.
        curves: run name ("student", "control", a teacher's) -> what it logged.
        predictions: model name -> its answers on the test split.
        sample_ids, sample_inputs: the raw inputs that were kept, or None.
        gaps: one line for each file that is missing or unreadable.
    """

    path: Path
    summary: dict[str, Any]
    recipe: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    student: dict[str, Any] = field(default_factory=dict)
    auto: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    curves: dict[str, Curve] = field(default_factory=dict)
    predictions: dict[str, Predictions] = field(default_factory=dict)
    sample_ids: np.ndarray | None = None
    sample_inputs: np.ndarray | None = None
    gaps: list[str] = field(default_factory=list)

    @property
    def task(self) -> str:
        return self.summary.get("task", "classification")

    def names(self, count: int) -> list[str]:
        """Names of classes or targets; numbers where the folder doesn't know them."""
        target = self.student.get("target") or {}
        known = target.get("names") if self.task == "regression" else self.student.get("classes")
        return [str(name) for name in known] if known and len(known) == count else [str(number) for number in range(count)]


def collect(path: str | Path) -> RunFiles:
    """Reads a finished run's folder.

    Raises:
        RunError: no such folder, or no readable summary.json in it.
    """
    run = collect_frame(path)
    if "student" not in run.summary["models"]:
        raise RunError("names no student", where=str(run.path / "summary.json"), fix="give the folder of a single run")
    return collect_rest(run)


def collect_rest(run: RunFiles) -> RunFiles:
    """Adds what the folder of a single run, or of an evaluation, has beside its frame: student.json, curves, predictions, samples."""
    trained = run.summary.get("job") != "eval"
    if trained:
        run.student = _optional(run, "student.json", _mapping) or {}
    else:
        run.student = {"classes": run.summary.get("classes")}
    for name in ("metrics.jsonl", "control/metrics.jsonl") if trained else ():
        if name == "metrics.jsonl" or _trains_control(run.summary):
            _optional(run, name, lambda place: _add_curves(run, place))
    for name in [*run.summary.get("models", {}), *run.summary.get("teachers", {})]:
        answers = _optional(run, f"predictions/{name}.npz", _predictions)
        if answers is not None:
            run.predictions[name] = answers
    if (run.path / "samples").exists():  # keeping samples can be switched off, which is no gap
        kept = _optional(run, "samples/samples.npz", _samples)
        run.sample_ids, run.sample_inputs = kept if kept is not None else (None, None)
    return run


def _trains_control(summary: Mapping[str, Any]) -> bool:
    """Whether a control was trained by steps; that of a fusion is one of its sources, and a head on random features is fitted."""
    fitted = (summary.get("extract") or {}).get("control") == "untrained"
    return "control" in summary.get("models", {}) and "fusion" not in summary and not fitted


def collect_frame(path: str | Path) -> RunFiles:
    """What the folder of a single run and that of a job of several runs both have: summary, recipes, environment, notes.

    Raises:
        RunError: no such folder, or no readable summary.json in it.
    """
    path = Path(path)
    run = RunFiles(path, _summary(path))
    for name in ("recipe.yaml", "recipe.resolved.yaml"):
        text = _optional(run, name, lambda place: place.read_text(encoding="utf-8"))
        if text is not None:
            run.texts[name] = text
    if "recipe.resolved.yaml" in run.texts:
        run.recipe = _optional(run, "recipe.resolved.yaml", _mapping_yaml) or {}
    run.environment = _optional(run, "env.json", _mapping) or {}
    reasons = _optional(run, "reasons.json", _mapping) or {}
    run.auto, run.notes = dict(reasons.get("auto") or {}), [str(note) for note in reasons.get("notes") or []]
    return run


def _summary(path: Path) -> dict[str, Any]:
    place = path / "summary.json"
    if not path.is_dir():
        raise RunError("no such run folder", where=str(path), fix="give the folder that a job wrote (its `out`)")
    if not place.exists():
        raise RunError("the run is not finished: no summary.json", where=str(path), fix=f"transfuse resume {path}")
    try:
        summary = _mapping(place)
    except _DAMAGED as error:
        fix = f"it was cut off or damaged: transfuse resume {path} writes it anew"
        raise RunError(f"can't be read: {error}", where=str(place), fix=fix) from error
    if not isinstance(summary.get("models", {} if "runs" in summary else None), dict):
        raise RunError("names no student", where=str(place), fix="give the folder of a single run")
    checking.check(summary, place)
    return {"models": {}, **summary}


def _optional(run: RunFiles, name: str, read: Callable[[Path], Value]) -> Value | None:
    place = run.path / name
    if not place.exists():
        run.gaps.append(f"{name} is not there.")
        return None
    try:
        return read(place)
    except _DAMAGED as error:
        run.gaps.append(f"{name} can't be read: {' '.join(str(error).split())[:200]}")
        return None


def _mapping(place: Path) -> dict[str, Any]:
    content = json.loads(place.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    return content


def _mapping_yaml(place: Path) -> dict[str, Any]:
    content = yaml.safe_load(place.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("not a mapping")
    return content


_INNER = ("terms", "metrics")  # keys of a line that hold values by name


def _add_curves(run: RunFiles, place: Path) -> None:
    """A line that was cut short by a kill is skipped, as a resumed run would."""
    default = "control" if place.parent.name == "control" else "student"
    for line in place.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and row.get("kind") in ("train", "val") and all(isinstance(row.get(key, {}), dict) for key in _INNER):
            curve = run.curves.setdefault(str(row.get("run") or default), Curve())
            (curve.train if row["kind"] == "train" else curve.val).append(row)


def _predictions(place: Path) -> Predictions:
    with np.load(place, allow_pickle=False) as content:
        found = Predictions(content["ids"], content["labels"], content["outputs"])
    if not len(found.ids) == len(found.labels) == len(found.outputs):
        raise ValueError("ids, labels and outputs differ in length")
    if found.outputs.ndim == 1:
        found.outputs = found.outputs[:, None]
    return found


def _samples(place: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(place, allow_pickle=False) as content:
        return content["ids"], content["inputs"]


def write_whole(path: Path, text: str) -> Path:
    """Writes a file that a reader sees whole or not at all.

    Raises:
        RunError: the folder can't be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(f"can't write: {error.strerror or error}", where=str(path), fix="free some space, or check permissions") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path
