"""The recipe of a sweep: a distillation and the values that its keys are tried with."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from transfuse.recipe.blocks import Count, Fraction
from transfuse.recipe.methods import Block
from transfuse.recipe.schema import DistillRecipe, TaughtRecipe
from transfuse.recipe.space import Entry, grid_size, read_space

DEFAULT_TRIALS = 20
MOST_TRIALS = 10_000


class PruneBlock(Block):
    startup: Count = 5
    """trials that run to the end before any is stopped"""
    warmup: Fraction = 0.25
    """share of a trial's training before it may be stopped"""


class SweepRecipe(TaughtRecipe):
    """Many students: a grid or a search over any keys of a distillation, with one teacher and one cache."""

    written: ClassVar[dict[str, str]] = {
        **DistillRecipe.written,
        "job": "job: sweep",
        "space": "space:  # recipe key -> a list of values, or {low: 1e-4, high: 1e-2, log: true}\n"
        "  objectives.kd.temperature: [1, 2, 4, 8]\n  train.optimizer.adamw.lr: [0.001, 0.003]",
    }
    grows_from: ClassVar[str | None] = "distill"

    job: Literal["sweep"] = "sweep"
    space: Annotated[dict[str, Any], Field(min_length=1, json_schema_extra={"additionalProperties": {"type": ["array", "object"]}})]
    """recipe key -> a list of values, or {low, high} with log: true or step"""
    sampler: Literal["auto", "grid", "tpe", "random"] = "auto"
    """grid: every combination of the lists; tpe: where good values were found; random; auto: grid if there are only lists, else tpe"""
    trials: Annotated[int, Field(ge=1, le=MOST_TRIALS)] | None = None
    """how many; null: the whole grid, or 20"""
    prune: PruneBlock | None = PruneBlock()
    """stop a trial whose best validation is below the median of the others at the same epoch; null: none"""

    @field_validator("space", mode="before")
    @classmethod
    def _space(cls, value: Any) -> Any:
        return read_space(value)

    @model_validator(mode="after")
    def _countable(self) -> SweepRecipe:
        ranges = [key for key, entry in self.entries.items() if not isinstance(entry, list)]
        if self.sampler == "grid" and ranges:
            raise ValueError(f"sampler: a grid needs lists of values, and space.{ranges[0]} is a range; use sampler: tpe or random")
        if self.search == "grid":
            size = grid_size(self.entries)
            if size > MOST_TRIALS:
                raise ValueError(f"space: the grid has {size:,} combinations, at most {MOST_TRIALS:,} are run; use sampler: tpe or random")
            if self.trials is not None and self.trials != size:
                raise ValueError(f"trials: the grid has {size} combinations; remove trials, or use sampler: random for some of them")
        return self

    @property
    def entries(self) -> dict[str, Entry]:
        """The space by recipe key; what `space` holds, with its type."""
        return self.space

    @property
    def search(self) -> Literal["grid", "tpe", "random"]:
        """The sampler that `auto` means here."""
        if self.sampler != "auto":
            return self.sampler
        return "grid" if all(isinstance(entry, list) for entry in self.entries.values()) else "tpe"

    @property
    def count(self) -> int:
        """How many trials there will be."""
        return grid_size(self.entries) if self.search == "grid" else self.trials or DEFAULT_TRIALS
