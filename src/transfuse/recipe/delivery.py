"""The key `export`: in which formats a job ships its student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationError

from transfuse.errors import RecipeError
from transfuse.recipe import targets
from transfuse.recipe.forms import plain
from transfuse.recipe.methods import Block, one_method
from transfuse.recipe.problems import raise_all, recipe_error, under
from transfuse.recipe.reading import Document, read_value


def target_list(value: Any) -> Any:
    """`onnx`, `[onnx, {onnx_int8: {calibration: 256}}]` or a mapping -> a list of {target: all of its settings}.

    Raises:
        pydantic.ValidationError: unknown targets or settings; all of them together.
        ValueError: not a list, or a target that is there twice, whose files would lie in one folder.
    """
    if isinstance(value, str):
        value = [value]
    if isinstance(value, dict):
        value = [{name: settings} for name, settings in value.items()]
    if not isinstance(value, list):
        raise ValueError("export is a list such as [onnx, {onnx_int8: {calibration: 512}}]")
    found, problems = [], []
    for index, item in enumerate(value):
        try:
            found.append(one_method(item, "target"))
        except ValidationError as error:
            problems.extend(under((index,), error))
    raise_all("export", problems)
    names = [next(iter(entry)) for entry in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} is there twice, and both would be written to exports/{twice}")
    return found


Targets = Annotated[list[dict[str, Any]], BeforeValidator(target_list)]


class _Asked(Block):
    export: Targets


def read_targets(value: Any, settings: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """The key `export` outside a recipe, for the verb of that name.

    Args:
        value: as a recipe has it.
        settings: more of the only target's settings (`calibration`), or of one among several (`onnx_int8.calibration`).

    Raises:
        RecipeError: unknown targets or settings, a setting of no target, or nothing asked for.
    """
    listed = plain(value if isinstance(value, (list, tuple)) else [value])
    entries = [{item: {}} if isinstance(item, str) else dict(item) for item in listed if isinstance(item, (str, dict))]
    entries = [{name: dict(inner or {})} for entry in entries for name, inner in entry.items()]
    if not entries or len(entries) < len(listed):
        known = ", ".join(targets.registry.names())
        raise RecipeError("names no export target", where="target", fix=f"for example target=onnx; known: {known}")
    for key, entry in (settings or {}).items():
        name, dot, inner = key.partition(".")
        chosen = [found for found in entries if name in found] if dot else entries
        if len(chosen) != 1:
            fix = f"say of which: {next(iter(entries[0]))}.{key}=..." if not dot else f"the targets are {', '.join(map(_name, entries))}"
            raise RecipeError(f"'{key}' is a setting of no target" if dot else f"'{key}' could belong to several targets", fix=fix)
        next(iter(chosen[0].values()))[inner if dot else key] = plain(entry)
    document = Document({"export": entries})
    try:
        return _Asked.model_validate(document.values).export
    except ValidationError as error:
        raise recipe_error(error, document) from None


def _name(entry: Mapping[str, Any]) -> str:
    return str(next(iter(entry)))


@dataclass
class Arguments:
    """What the verb `export` was told: targets with all of their settings, data and folder."""

    targets: list[dict[str, Any]]
    data: str | None
    out: str | None


def read_arguments(arguments: Sequence[str]) -> Arguments:
    """`target=onnx preprocess=graph out=FOLDER` -> what is asked for.

    Raises:
        RecipeError: an argument that is no key=value, no target, or wrong settings.
    """
    values: dict[str, Any] = {}
    for argument in arguments:
        key, separator, text = argument.partition("=")
        if not separator or not key.strip():
            raise RecipeError(f"'{argument}' is no key=value", fix="for example: transfuse export runs/small target=onnx")
        values[key.strip()] = read_value(text, f"argument '{argument}'")
    target, data, out = values.pop("target", None), values.pop("data", None), values.pop("out", None)
    for key, value in (("data", data), ("out", out)):
        if value is not None and not isinstance(value, str):
            raise RecipeError(f"{key} is text, not {value!r}", where=key)
    return Arguments(read_targets(target, values), data, out)
