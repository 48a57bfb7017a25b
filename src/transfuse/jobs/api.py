"""The verbs for Python: the recipe's keys as arguments, with live objects wherever the recipe has a string."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from transfuse.core.protocols import Reporter
from transfuse.core.types import Model, ModelRequest
from transfuse.errors import RecipeError
from transfuse.jobs import distill as distillation
from transfuse.jobs import resume as resuming
from transfuse.jobs.context import Live, Run
from transfuse.recipe.load import from_values
from transfuse.recipe.schema import DistillRecipe


def distill(
    data: Any,
    student: str | nn.Module | Mapping[str, Any],
    teacher: str | nn.Module | Mapping[str, Any] | None = None,
    objectives: Sequence[Any] | str = "auto",
    train: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    **recipe: Any,
) -> Run:
    """A teacher teaches a student.

    Args:
        data: a source string, or (train, test) / (train, val, test), each a Dataset, a DataLoader or (inputs, labels); with more settings
            {"source": either of them, "labels_per_class": 10, ...}.
        student: a source string, a module, or a recipe block whose source may be a module: {"source": module, "preprocess": {...}}.
            A copy of the module is used, yours stays as it is.
        teacher: the same; several go into `teachers={name: ...}`.
        objectives: recipe entries such as {"kd": {"temperature": 2}}, or modules, or (module, weight).
        train: {"epochs": 30, ...}.
        out: the run folder.
        reporter: who is told what goes on; None: nobody.
        recipe: any other key of the recipe: seed, teachers, augment, control, cache, budget.

    Returns:
        The run: `.student` is the trained module, `.summary` the figures, `.report` the page, `.path` the folder.

    Raises:
        TransfuseError: what was given has to change; says what, where and how.
    """
    live = Live()
    values: dict[str, Any] = {"job": "distill", **recipe, "student": _model(student, live, None)}
    block = dict(data) if isinstance(data, Mapping) and "source" in data else {"source": data}
    if not isinstance(block["source"], str):
        live.data, block["source"] = block["source"], "live"
    values["data"] = block
    teachers = dict(recipe.get("teachers", {}))
    if teacher is not None:
        teachers = {"teacher": teacher, **teachers}
    values["teachers"] = {name: _model(given, live, name) for name, given in teachers.items()}
    values["objectives"] = objectives if isinstance(objectives, str) else [_objective(entry, live) for entry in objectives]
    if train is not None:
        values["train"] = dict(train)
    if out is not None:
        values["out"] = str(out)
    validated = from_values(values)
    assert isinstance(validated, DistillRecipe)
    if isinstance(validated.objectives, list):  # a method that is used twice has been given a name of its own by now
        instances = iter(live.objectives.values())
        live.objectives = {block.name: next(instances) for block in validated.objectives if block.method.startswith("live:")}
    return distillation.run(validated, reporter, None, live)


def resume(
    path: str | Path,
    data: Any = None,
    student: nn.Module | None = None,
    teacher: nn.Module | None = None,
    teachers: Mapping[str, nn.Module] | None = None,
    objectives: Mapping[str, nn.Module] | None = None,
    reporter: Reporter | None = None,
) -> Run:
    """Goes on with an interrupted run.

    Args:
        path: its folder.
        data, student, teacher, teachers: the live objects that it was started with.
        objectives: live objectives, by their names in recipe.resolved.yaml.
        reporter: who is told.
    """
    named = {**({"teacher": teacher} if teacher is not None else {}), **dict(teachers or {})}
    return resuming.resume(path, reporter, Live(data, student, named, dict(objectives or {})))


def load(source: str | Path) -> nn.Module:
    """The network of a run folder or of a model source string, in eval mode; takes preprocessed inputs, gives logits.

    `transfuse.models.open_model` gives the preprocessing and the class names as well.

    Raises:
        ModelError: there is nothing to open.
    """
    return open_model(source).network.eval()


def open_model(source: str | Path) -> Model:
    """A run folder, a .safetensors file or a model source string, opened with its preprocessing and class names."""
    from transfuse import models

    path = Path(source)
    if path.is_dir():
        return models.open_model(f"run:{path}", ModelRequest())
    return models.open_model(f"file:{path}" if path.suffix == ".safetensors" and path.exists() else str(source), ModelRequest())


def _model(given: Any, live: Live, teacher: str | None) -> Any:
    if isinstance(given, Mapping) and isinstance(given.get("source"), nn.Module):
        return {**given, "source": _model(given["source"], live, teacher)}
    if not isinstance(given, nn.Module):
        return given
    if teacher is None:
        live.student = given
    else:
        live.teachers = {**live.teachers, teacher: given}
    return f"live:{type(given).__name__}"


def _objective(entry: Any, live: Live) -> Any:
    weight: Any = "auto"
    if isinstance(entry, tuple) and len(entry) == 2:
        entry, weight = entry
    if not isinstance(entry, nn.Module):
        if weight != "auto":
            raise RecipeError("(objective, weight) is for modules", where="objectives", fix="write {'kd': {'weight': 0.9}}")
        return entry
    live.objectives = {**live.objectives, f"{len(live.objectives)}": entry}
    return {f"live:{type(entry).__name__}": {"weight": weight}}
