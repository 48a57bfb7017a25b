"""What Python callers hand over, as the values of a recipe and the live objects that stand in for its strings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from transfuse.core.protocols import Reporter
from transfuse.errors import RecipeError
from transfuse.jobs.context import Live, Run
from transfuse.jobs.runner import runner_of
from transfuse.recipe.load import from_values
from transfuse.recipe.schema import Recipe


def run_taught(recipe: Mapping[str, Any], given: tuple[Any, Any, Any], rest: tuple[Any, Any, Any], reporter: Reporter | None) -> Run:
    """Runs a job in which teachers teach.

    Args:
        recipe: the job and any of its keys.
        given: data, student and teacher, as strings, blocks or objects.
        rest: objectives, train and out.
        reporter: who is told.
    """
    (data, student, teacher), (objectives, train, out) = given, rest
    live = Live()
    values: dict[str, Any] = {**recipe, "student": model_of(student, live, None)}
    values["data"], live.data = data_of(data)
    teachers = {**({"teacher": teacher} if teacher is not None else {}), **recipe.get("teachers", {})}
    values["teachers"] = {name: model_of(model, live, name) for name, model in teachers.items()}
    if "peers" in recipe:
        values["peers"] = peers_of(recipe["peers"], live)
    validated = validated_recipe(values, objectives, train, out, live)
    return runner_of(validated).run(validated, reporter, None, live)


def model_of(given: Any, live: Live, teacher: str | None) -> Any:
    """A source string or a recipe block, whose source may be a module; a module is put into `live`, as the student where no teacher's
    name is given."""
    if isinstance(given, Mapping) and isinstance(given.get("source"), nn.Module):
        return {**given, "source": model_of(given["source"], live, teacher)}
    if not isinstance(given, nn.Module):
        return given
    if teacher is None:
        live.student = given
    else:
        live.teachers = {**live.teachers, teacher: given}
    return f"live:{type(given).__name__}"


def peers_of(given: Mapping[str, Any], live: Live) -> dict[str, Any]:
    """Blocks of the networks that learn beside the student."""
    held = Live()
    values = {name: model_of(peer, held, name) for name, peer in given.items()}
    live.peers = held.teachers
    return values


def data_of(given: Any) -> tuple[dict[str, Any], Any]:
    """A data block, and the live object that stands in for its source (None: a string does)."""
    block = dict(given) if isinstance(given, Mapping) and "source" in given else {"source": given}
    if isinstance(block["source"], str):
        return block, None
    return {**block, "source": "live"}, block["source"]


def validated_recipe(
    values: dict[str, Any], objectives: Sequence[Any] | str, train: Mapping[str, Any] | None, out: str | Path | None, live: Live
) -> Recipe:
    """The recipe of these values and arguments; live objectives get the names that it gives them."""
    values["objectives"] = objectives if isinstance(objectives, str) else [objective_of(entry, live) for entry in objectives]
    if train is not None:
        values["train"] = dict(train)
    if out is not None:
        values["out"] = str(out)
    recipe = from_values(values)
    listed = getattr(recipe, "objectives", None)
    if isinstance(listed, list):  # a method that is used twice has been given a name of its own by now
        instances = iter(live.objectives.values())
        live.objectives = {block.name: next(instances) for block in listed if block.method.startswith("live:")}
    return recipe


def objective_of(entry: Any, live: Live) -> Any:
    """An entry of `objectives`; a module is put into `live`.

    Raises:
        RecipeError: a weight beside what has its own place for one.
    """
    weight: Any = "auto"
    if isinstance(entry, tuple) and len(entry) == 2:
        entry, weight = entry
    if not isinstance(entry, nn.Module):
        if weight != "auto":
            raise RecipeError("(objective, weight) is for modules", where="objectives", fix="write {'kd': {'weight': 0.9}}")
        return entry
    live.objectives = {**live.objectives, f"{len(live.objectives)}": entry}
    return {f"live:{type(entry).__name__}": {"weight": weight}}
