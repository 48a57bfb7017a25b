"""Ways to fuse by name: which room a rule lives in, and its settings, checked against its constructor."""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from transfuse.core.registry import did_you_mean
from transfuse.fusion import features, outputs, weights
from transfuse.recipe.forms import method_of
from transfuse.recipe.methods import Block, method_block
from transfuse.recipe.problems import problem, raise_all, under

ROOMS: dict[str, ModuleType] = {"outputs": outputs, "features": features, "weights": weights}
SINGLE = "single"
"""no fusion at all: the source that is best on validation"""
TRAINED = ("distill", "amalgamate")
"""ways that train the recipe's student"""
_GIVEN_BY_THE_JOB = ("task",)


class SpreadBlock(Block):
    """What sources that each know some classes say together, spread among samples that look alike to them."""

    neighbours: Annotated[int, Field(ge=1)] = 10
    """how many of the nearest samples each sample listens to"""
    rounds: Annotated[int, Field(ge=1)] = 3
    """how often"""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.7
    """of the neighbours in what a sample is taught"""
    agreement: Annotated[float, Field(ge=0, le=1)] = 0.5
    """share of neighbours that have to be predicted alike; where fewer are, being near means little, and nothing is spread"""


class AmalgamateBlock(Block):
    """Settings of the way that joins class sets."""

    spread: SpreadBlock | Literal["auto"] | None = "auto"
    """what the student is taught, spread among neighbours in the sources' features before; null: every sample by itself"""


def names() -> list[str]:
    """All ways, by the names that resolved recipes give them."""
    return [SINGLE, *(f"{room}.{name}" for room, module in ROOMS.items() for name in module.names()), *TRAINED]


def summaries() -> dict[str, str]:
    """Way -> one line."""
    lines = {SINGLE: "No fusion: the source that is best on validation."}
    for room, module in ROOMS.items():
        lines |= {f"{room}.{name}": line for name, line in module.registry.summaries().items()}
    lines["distill"] = "The student learns from all sources at once, as in transfuse distill."
    lines["amalgamate"] = "The student learns the classes of sources that each know some of them."
    return lines


def full_name(name: str) -> str | None:
    """`weighted` -> outputs.weighted: of several rooms that have it the first of outputs, features, weights; None for an unknown one."""
    known = names()
    if name in known:
        return name
    return next((f"{room}.{name}" for room in ROOMS if f"{room}.{name}" in known), None)


@cache
def way_block(name: str) -> type[Block]:
    """The recipe block of one way, by its full name."""
    room, _, rule = name.partition(".")
    if name == "amalgamate":
        return AmalgamateBlock
    if name in (SINGLE, *TRAINED):
        return Block
    return method_block(name.replace(".", "_"), ROOMS[room].get(rule), leave_out=_GIVEN_BY_THE_JOB)


def parse_way(item: Any) -> dict[str, Any]:
    """`weighted`, `{gate: {penalty: 0.01}}` or a WayBlock's dump -> the arguments of a WayBlock.

    Raises:
        pydantic.ValidationError: not a way, unknown, unknown key or wrong value; places are relative to the item.
    """
    if isinstance(item, dict) and item.keys() == {"name", "parameters"}:
        item = {item["name"]: item["parameters"]}
    elif not isinstance(item, (str, dict)) and hasattr(item, "entry"):
        item = item.entry()
    given = method_of(item)
    if given is None:
        raise_all("how", [problem((), "a way is a name, or one name with its settings: {gate: {penalty: 0.01}}", item)])
    name = full_name(str(given))
    if name is None:
        short = {known.rpartition(".")[2] for known in names()}
        text = f"unknown way '{given}'{did_you_mean(str(given), [*names(), *short]) or '; known: ' + ', '.join(names())}"
        raise_all("how", [problem((), text, item)])
    assert name is not None
    settings = item[given] if isinstance(item, dict) else None
    try:
        return {"name": name, "parameters": way_block(name).model_validate({} if settings is None else settings).model_dump()}
    except ValidationError as error:
        raise ValidationError.from_exception_data("how", under((str(given),), error)) from None
