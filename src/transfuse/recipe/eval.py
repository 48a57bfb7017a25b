"""The recipe of an evaluation: trained models or runs, the data to measure them on, and what else is to be measured."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from transfuse.evaluate import corruptions
from transfuse.recipe.blocks import BudgetBlock, Count, DataBlock, ModelBlock, source_string
from transfuse.recipe.schema import PeerName, Recipe

Part = Literal["test", "val", "train", "all"]


class EvalRecipe(Recipe):
    """Measures trained models on data: metrics with intervals, paired tests, costs, fidelity to a teacher, robustness."""

    short_keys: ClassVar[dict[str, str]] = {"teacher": "short for `teachers: {teacher: ...}`"}
    written: ClassVar[dict[str, str]] = {"job": "job: eval", "models": "models:  # name -> a trained model or a run\n  student: run:runs/x"}

    job: Literal["eval"] = "eval"
    models: Annotated[dict[PeerName, Annotated[ModelBlock, BeforeValidator(source_string)]], Field(min_length=1)]
    """name -> a trained model, a run or a table of predictions"""
    data: Annotated[DataBlock, BeforeValidator(source_string)] | None = None
    """what to measure on; null: the data of the first model that is a run"""
    part: Part = "test"
    """of the data; all: every labelled sample"""
    teachers: dict[PeerName, Annotated[ModelBlock, BeforeValidator(source_string)]] = Field(default={})
    """name -> model that the others are compared with: agreement, KL, who is right, likeness of features; `teacher: X` for one"""
    top_k: Annotated[list[Count], Field(max_length=20)] = Field(default=[5])
    """a classifier's label counts as found among the k likeliest classes, for each k; shown where there are more than k classes"""
    robustness: bool | list[str] = False
    """true: all 15 corruptions of pictures in 5 severities; or a list of corruptions or families (noise, blur, weather, digital)"""
    robustness_samples: Count | None = None
    """corrupt only so many pictures, evenly spread over the part; null: all"""
    robustness_severities: list[Annotated[int, Field(ge=1, le=5)]] = Field(default=[1, 2, 3, 4, 5], min_length=1)
    """of 1 to 5; fewer are quicker, and their means are means of these"""
    batch_size: Count = 256
    """samples per forward pass; doesn't change the result"""
    budget: BudgetBlock = BudgetBlock()
    """what the first model may cost; the report says met or missed"""
    samples: bool = True
    """keep a few raw inputs in the folder for galleries"""

    @field_validator("robustness")
    @classmethod
    def _known_corruptions(cls, value: Any) -> Any:
        if isinstance(value, list):
            known = [*corruptions.FAMILIES, *corruptions.names()]
            unknown = [name for name in value if name not in known]
            if unknown or not value:
                raise ValueError(f"unknown corruption '{unknown[0]}'; known: {', '.join(known)}" if unknown else "name some, or write true")
        return value

    @field_validator("robustness_severities", "top_k")
    @classmethod
    def _each_once(cls, value: list[int]) -> list[int]:
        return sorted(set(value))

    @field_validator("seeds", "validate", "track")
    @classmethod
    def _trains_nothing(cls, value: Any) -> Any:
        if value:
            raise ValueError("an evaluation trains nothing, so there is nothing to repeat or to track")
        return value

    def corruptions(self) -> list[str]:
        """The corruptions that are asked for."""
        if isinstance(self.robustness, bool):
            return corruptions.names() if self.robustness else []
        return corruptions.chosen(self.robustness)
