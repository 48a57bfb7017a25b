"""The recipe of teacher assistants: a chain of networks of falling size between a teacher and its student."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from transfuse.recipe.blocks import LearnerBlock, source_string
from transfuse.recipe.schema import TaughtRecipe


class AssistantsRecipe(TaughtRecipe):
    """A teacher teaches a student by way of assistants of sizes between them."""

    written: ClassVar[dict[str, str]] = {
        "job": "job: assistants",
        "data.source": "  source: bundled:digits",
        "teachers": "teacher:\n  source: builtin:convnet\n"
        "  train: {epochs: 30}  # on the labels; remove it where the source has trained weights",
        "student.source": "  source: builtin:mlp",
        "objectives": "objectives:  # of every link of the chain: transfuse ls objectives\n"
        "  - cross_entropy: {weight: 0.1}\n  - kd: {weight: 0.9, temperature: 4}",
        "assistants": "assistants:  # from the teacher's size to the student's\n"
        "  - {source: builtin:mlp, options: {widths: [512]}}\n  - {source: builtin:mlp, options: {widths: [256]}}",
    }

    job: Literal["assistants"] = "assistants"
    assistants: Annotated[list[Annotated[LearnerBlock, BeforeValidator(source_string)]], Field(min_length=1, max_length=100)]
    """networks between teacher and student, the one nearest to the teacher first"""
    dense: bool = False
    """every network is taught by all earlier ones, not by the one before it alone"""
    plain: bool = True
    """also train the student with the teacher alone, for comparison"""

    @model_validator(mode="after")
    def _one_teacher(self) -> AssistantsRecipe:
        if list(self.teachers) != ["teacher"]:
            raise ValueError("teachers: a chain begins with one teacher; write teacher: SOURCE")
        return self
