"""Recipe blocks of methods, generated from constructor signatures: a method describes itself once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, create_model, model_validator

from transfuse import objectives, policies, probes
from transfuse.core.registry import did_you_mean
from transfuse.core.signature import parameters
from transfuse.engine.optim import OPTIMIZERS
from transfuse.engine.schedule import SCHEDULES, WEIGHT_SCHEDULES
from transfuse.errors import RecipeError
from transfuse.models import heads
from transfuse.policies import init
from transfuse.recipe import targets
from transfuse.recipe.forms import method_of
from transfuse.recipe.problems import problem, raise_all, under, with_known_keys

Auto = Literal["auto"]
Kind = Literal["optimizer", "schedule", "weight", "head", "policy", "target", "form", "init"]


class Block(BaseModel):
    """Strict: unknown keys are errors, "30" is not 30, defaults are validated too."""

    short_keys: ClassVar[dict[str, str]] = {}  # keys that are opened before validation, and what they are for

    model_config = ConfigDict(extra="forbid", strict=True, validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="wrap")
    @classmethod
    def _errors_know_the_keys(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler({} if values is None else values)  # `train:` with all of its keys commented out
        except ValidationError as error:
            known = {**{name: field.description for name, field in cls.model_fields.items()}, **cls.short_keys}
            raise with_known_keys(error, known, accepts_text="source" in known) from None


TABLES: dict[Kind, Mapping[str, Any]] = {
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "weight": WEIGHT_SCHEDULES,
    "head": probes.TABLE,
    "policy": policies.TABLE,
    "target": targets.TABLE,
    "form": heads.TABLE,
    "init": init.TABLE,
}
# keys that methods of a kind have beside their constructor's parameters
BESIDE: dict[Kind, dict[str, Any]] = {
    "init": {
        "source": (
            str | dict[str, Any] | None,
            Field(None, description="whose weights: a model source, a model block, or a teacher's name; null: the only teacher's"),
        ),
        "least": (
            Annotated[float, Field(ge=0, le=1)],
            Field(0.5, description="share of the network's numbers that has to come from there; with less the job is refused"),
        ),
    },
}
GIVEN_BY_THE_ENGINE = ("progress", "parameters")  # arguments of schedules and optimisers that no recipe sets


def method_block(
    name: str, constructor: Any, extra: dict[str, Any] | None = None, leave_out: tuple[str, ...] = GIVEN_BY_THE_ENGINE
) -> type[Block]:
    """A block with a constructor's parameters as keys, but for those that the job gives, and more keys beside them."""
    fields: dict[str, Any] = {}
    for parameter in parameters(constructor):
        if parameter.name in leave_out:
            continue
        default = ... if parameter.required else parameter.default
        fields[parameter.name] = (parameter.annotation, Field(default, description=parameter.description or None))
    doc = (constructor.__doc__ or name).strip().splitlines()[0]
    return create_model(f"{name}_block", __base__=Block, __doc__=doc, **(extra or {}), **fields)


@cache
def table_block(kind: Kind, name: str) -> type[Block]:
    """The block of one method of a table: an optimiser, a policy, an export target."""
    return method_block(name, TABLES[kind][name], BESIDE.get(kind))


def one_method(value: Any, kind: Kind) -> dict[str, Any]:
    """`sgd` or `{sgd: {lr: 0.1}}` -> {sgd: all of its settings}.

    Raises:
        pydantic.ValidationError: not exactly one method, unknown method, unknown key or wrong value.
    """
    table = TABLES[kind]
    if isinstance(value, str):
        value = {value: {}}
    if not isinstance(value, dict) or len(value) != 1:
        text = f"name one {kind}, such as {{{next(iter(table))}: {{}}}}; known: {', '.join(table)}"
        raise_all(kind, [problem((), text, value)])
    name, settings = next(iter(value.items()))
    if name not in table:
        text = f"unknown {kind} '{name}'{did_you_mean(str(name), table) or '; known: ' + ', '.join(table)}"
        raise_all(kind, [problem((str(name),), text, value)])
    try:
        return {name: table_block(kind, name).model_validate({} if settings is None else settings).model_dump()}
    except ValidationError as error:
        raise ValidationError.from_exception_data(kind, under((name,), error)) from None


class ObjectiveBlock(Block):
    """One entry of `objectives`, whatever the method: the method's own parameters are in `parameters`."""

    name: str
    """what logs, messages and overrides call it: the method, and fitnet_2 for a second fitnet"""
    method: str
    """an objective, `auto` (the task's default terms) or `live:ClassName` (an object handed over in Python)"""
    weight: Annotated[float, Field(ge=0)] | Auto | dict[str, Any] = "auto"
    teacher: str | list[str] | None = None
    student_tap: str | list[str] | None = None
    teacher_tap: str | list[str] | None = None
    parameters: dict[str, Any] = {}

    def entry(self) -> str | dict[str, Any]:
        """As a recipe writes it: {kd: {weight: 0.9, temperature: 4.0}}."""
        if self.method == "auto":
            return self.method
        common = {key: getattr(self, key) for key in OBJECTIVE_KEYS}
        return {self.method: {key: value for key, value in common.items() if value is not None} | self.parameters}


OBJECTIVE_KEYS: dict[str, Any] = {
    "weight": (
        Annotated[float, Field(ge=0)] | Auto | dict[str, Any],
        Field("auto", description="factor in the loss; auto: the paper's; {linear: {start: 0, end: 1}} changes it over the run"),
    ),
    "teacher": (str | list[str] | None, Field(None, description="which teacher(s) answer; null: all")),
    "student_tap": (str | list[str] | None, Field(None, description="module path(s) of the student's feature")),
    "teacher_tap": (str | list[str] | None, Field(None, description="module path(s) of the teacher's feature")),
}


@cache
def objective_block(method: str) -> type[Block]:
    """The recipe block of one objective: its constructor's parameters and what every objective has."""
    if method == "auto":
        return create_model("auto_block", __base__=Block, __doc__="The task's default terms.")
    if method.startswith("live:"):
        return create_model("live_block", __base__=Block, __doc__="An objective handed over as an object.", **OBJECTIVE_KEYS)
    return method_block(method, objectives.get(method), OBJECTIVE_KEYS)


def parse_objective(item: Any) -> dict[str, Any]:
    """`kd`, `{kd: {temperature: 4}}` or an ObjectiveBlock's dump -> the arguments of an ObjectiveBlock.

    Raises:
        pydantic.ValidationError: not an objective, unknown method, unknown key or wrong value; places are relative to the item.
    """
    if isinstance(item, ObjectiveBlock):
        item = item.entry()
    elif isinstance(item, dict) and "method" in item and "name" in item:
        item = ObjectiveBlock.model_validate(item).entry()
    method = method_of(item)
    if method is None:
        raise_all("objective", [problem((), "an objective is a name, or one name with its settings: {kd: {temperature: 4}}", item)])
    method = str(method)
    settings = item[method] if isinstance(item, dict) else None
    try:
        block = objective_block(method)
    except RecipeError as error:
        raise_all("objective", [problem((method,), f"{error.what}; {error.fix}", item)])
        raise
    try:
        values = block.model_validate({} if settings is None else settings).model_dump()
    except ValidationError as error:
        raise ValidationError.from_exception_data("objective", under((method,), error)) from None
    common = {key: values.pop(key) for key in OBJECTIVE_KEYS if key in values}
    if isinstance(common.get("weight"), dict):
        try:
            common["weight"] = one_method(common["weight"], "weight")
        except ValidationError as error:
            raise ValidationError.from_exception_data("objective", under((method, "weight"), error)) from None
    return {"name": method, "method": method, **common, "parameters": values}
