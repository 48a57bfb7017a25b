"""The recipe of born-again networks: each generation is taught by the one before it."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from transfuse.recipe.schema import TaughtRecipe

OBJECTIVES: list[dict[str, Any]] = [{"cross_entropy": {"weight": 0.5}}, {"kd": {"weight": 0.5, "temperature": 1.0}}]
"""the paper's loss for labels with one class each"""


class BornAgainRecipe(TaughtRecipe):
    """Generations of one network, each taught by the one before it (born-again networks)."""

    written: ClassVar[dict[str, str]] = {
        "job": "job: born_again",
        "data.source": "  source: bundled:digits",
        "teachers": "# teacher: null                     # of the first generation; null: generation 0 learns from the labels alone",
        "student.source": "  source: builtin:mlp",
        "objectives": "objectives:  # of every generation but 0: transfuse ls objectives\n"
        "  - cross_entropy: {weight: 0.5}\n  - kd: {weight: 0.5, temperature: 1}",
    }

    job: Literal["born_again"] = "born_again"
    generations: Annotated[int, Field(ge=1, le=100)] = 3
    """students that are taught, one after the other; generation k has the seed `seed + k`"""
    ensemble: bool = True
    """report the mean prediction of all taught generations too"""

    @model_validator(mode="after")
    def _at_most_one_teacher(self) -> BornAgainRecipe:
        if len(self.teachers) > 1:
            raise ValueError("teachers: generations have one ancestor; name one teacher, or none")
        return self
