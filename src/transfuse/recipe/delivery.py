"""The key `export`: in which formats a job ships its student."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationError

from transfuse.recipe.methods import one_method
from transfuse.recipe.problems import raise_all, under


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
