"""Which stages a training falls into: what is prepared beside it, what the student learns first, and what is left for the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transfuse.core.stages import Stage, stages_of
from transfuse.core.types import WeightedObjective
from transfuse.errors import RecipeError


@dataclass(frozen=True)
class Run:
    """One stage before the last one.

    Attributes:
        weighted: the objective that asked for it.
        stage: what it asked for.
        begin, end: steps. A preparation counts its own, from 0; a first stage counts the student's.
    """

    weighted: WeightedObjective
    stage: Stage
    begin: int
    end: int

    @property
    def steps(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True)
class Plan:
    """A training in its stages.

    Attributes:
        preparations: in the recipe's order; their steps come on top of the student's.
        first: in the recipe's order; the student learns from one objective at a time.
        last: terms of the last stage, in which the student learns from all that had no stage of their own.
        begin: the student's step at which the last stage begins.
        steps: the student's steps, all stages together.
    """

    preparations: list[Run]
    first: list[Run]
    last: list[WeightedObjective]
    begin: int
    steps: int


def plan(objectives: Sequence[WeightedObjective], steps: int) -> Plan:
    """Lays out a training of so many steps. Objectives whose weight is 0 throughout ask for nothing.

    Args:
        objectives: terms of the loss.
        steps: the student's, which are the control's too.

    Raises:
        RecipeError: the first stages leave no steps, or no terms, for the last one.
    """
    preparations: list[Run] = []
    first: list[Run] = []
    begin = 0
    for weighted in objectives:
        for stage in stages_of(weighted.objective) if counts(weighted) else ():
            length = max(1, round(stage.share * steps))
            if stage.kind == "prepare":
                preparations.append(Run(weighted, stage, 0, length))
            else:
                first.append(Run(weighted, stage, begin, begin + length))
                begin += length
    staged = {run.weighted.name for run in first}
    last = [weighted for weighted in objectives if weighted.name not in staged]
    if staged:
        _refuse_nothing_left(sorted(staged), last, begin, steps)
    return Plan(preparations, first, last, begin, steps)


def counts(weighted: WeightedObjective) -> bool:
    """Whether an objective's weight is ever above 0; schedules are looked at in nine places."""
    return any(weighted.weight(place / 8) > 0 for place in range(9))


def _refuse_nothing_left(names: list[str], last: list[WeightedObjective], begin: int, steps: int) -> None:
    who, where = " and ".join(names), "objectives." + names[0]
    if not any(counts(weighted) for weighted in last):
        what = f"the student learns from {who} in a first stage of its own, after which nothing is left to learn from"
        raise RecipeError(what, where=where, fix="add cross_entropy or kd, or set when: together")
    if begin >= steps:
        what = f"{who} would take {begin} of {steps} steps for a first stage, and the rest of the objectives gets none"
        raise RecipeError(what, where=where, fix="give it a smaller share, or train for more steps")
