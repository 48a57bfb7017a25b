"""A recipe's objectives as weighted modules, for the student and for its control."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from transfuse import objectives
from transfuse.core.card import Card
from transfuse.core.types import DataSet, Model, WeightedObjective
from transfuse.engine.features import connect, shipped
from transfuse.engine.schedule import weight_function
from transfuse.errors import RecipeError
from transfuse.jobs.parts.networks import device_of, example
from transfuse.recipe.methods import ObjectiveBlock


def build(block: ObjectiveBlock, teachers: Sequence[str], live: Mapping[str, nn.Module]) -> WeightedObjective:
    """One entry of the recipe's list. Of a live objective a copy: else each run of a series would begin with what the one before it learnt.

    Raises:
        RecipeError: its parameters contradict each other.
    """
    if block.name in live:
        objective, card = copy.deepcopy(live[block.name]), card_of(live[block.name])
    else:
        card = objectives.card(block.method)
        try:
            objective = objectives.get(block.method)(**block.parameters)
        except ValueError as error:
            raise RecipeError(str(error), where=f"objectives.{block.name}") from error
    asked = (block.teacher,) if isinstance(block.teacher, str) else tuple(block.teacher or teachers)
    if isinstance(block.weight, str):
        raise TypeError(f"objectives.{block.name}.weight was not resolved")
    return WeightedObjective(
        name=block.name,
        objective=objective,
        card=card,
        weight=weight_function(block.weight),
        teachers=asked if card.asks_teachers else (),
        student_taps=_paths(block.student_tap),
        teacher_taps=_paths(block.teacher_tap),
    )


def connected(
    objectives: Sequence[WeightedObjective], student: Model, teachers: Mapping[str, Model], data: DataSet, seed: int
) -> tuple[list[WeightedObjective], list[str]]:
    """Objectives that know their taps and have their bridges, and notes on what `auto` found.

    Where an objective ships more than the student, the student's network becomes what is shipped; its teacher's head included.

    Raises:
        TransfuseError: a path that isn't there, features that can't be compared, or a start to hold on to that nobody has trained.
    """
    for weighted in objectives:
        if "student.start" in weighted.card.needs and not student.pretrained:
            what = f"keeps the student near the weights it starts from, and those of {student.source} are random"
            fix = "start from trained weights (run:..., file:..., timm:NAME.TAG), or leave it out"
            raise RecipeError(what, f"objectives.{weighted.name}", fix)
    known = {name: model for name, model in teachers.items() if model.module is not None}
    networks = {name: (model.network, example(model, data).to(device_of(model.network))) for name, model in known.items()}
    sample = example(student, data).to(device_of(student.network))
    objectives, notes = connect(objectives, (student.network, sample), networks, seed, student.fresh)
    objectives, student.module = shipped(objectives, (student.network, sample), student.fresh)
    return objectives, notes


def card_of(objective: nn.Module) -> Card:
    """The CARD of the file that defines an objective; a live one may carry its own as `card`.

    Raises:
        RecipeError: there is none, so nobody can tell what it needs.
    """
    import sys

    own: Any = getattr(objective, "card", None)
    card = own if isinstance(own, Card) else getattr(sys.modules[type(objective).__module__], "CARD", None)
    if not isinstance(card, Card):
        fix = "give it an attribute `card = Card(...)` (transfuse.core.card) that says its level and needs"
        raise RecipeError(f"{type(objective).__name__} has no card", where="objectives", fix=fix)
    return card


def _paths(tap: str | list[str] | None) -> tuple[str, ...]:
    return (tap,) if isinstance(tap, str) else tuple(tap or ())
