"""The recipe of an adaptation: a labelled source, a target of the same classes, and one network that learns from both."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from transfuse.recipe.augment import AugmentBlock
from transfuse.recipe.blocks import BudgetBlock, CacheBlock, DataBlock, LearnerBlock, TrainBlock, source_string
from transfuse.recipe.delivery import Targets
from transfuse.recipe.methods import Auto, ObjectiveBlock
from transfuse.recipe.schema import Recipe, objective_list


class AdaptRecipe(Recipe):
    """A network learns from a labelled source and from a target domain whose labels it does not see."""

    data_keys: ClassVar[tuple[str, ...]] = ("source", "target")
    folded: ClassVar[str | None] = "target"
    written: ClassVar[dict[str, str]] = {
        "job": "job: adapt",
        "source.source": "  source: idx:./mnist",
        "target.source": "  source: bundled:digits",
        "student.source": "  source: builtin:convnet",
        "objectives": "objectives:  # terms of the loss: transfuse ls objectives\n  - cross_entropy\n  - mcc",
    }

    job: Literal["adapt"] = "adapt"
    source: Annotated[DataBlock, BeforeValidator(source_string)]
    """labelled samples to learn from"""
    target: Annotated[DataBlock, BeforeValidator(source_string)]
    """samples of the same classes from where the network will be used; their labels are for the report alone"""
    target_labels: Literal["ignore", "use"] = "ignore"
    """use: the target's training labels, as many as it has, are learnt from, too (semi-supervised)"""
    target_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """the target's share of each batch"""
    select_on: Literal["source", "target"] = "source"
    """whose validation part chooses the weights; target: its labels are looked at, so the result is no longer unsupervised"""
    student: Annotated[LearnerBlock, BeforeValidator(source_string)]
    """the network that is trained and shipped"""
    objectives: Annotated[list[ObjectiveBlock], Field(min_length=1)] | Auto = "auto"
    """terms of the loss; auto: the labels (1) and a term that looks at the target (1): mcc for classes, else coral"""
    augment: AugmentBlock = AugmentBlock()
    """random changes of the inputs of both domains"""
    train: TrainBlock = TrainBlock()
    """how the student (and the control) is trained; an epoch is over when both domains were passed through"""
    control: str = "reuse"
    """the same student from the source alone: reuse a stored one, train anew, none, or the PATH of a run"""
    cache: CacheBlock = CacheBlock()
    """where controls are kept"""
    budget: BudgetBlock = BudgetBlock()
    """what the student may cost; the report says met or missed"""
    samples: bool = True
    """keep a few raw inputs of the target's test part in the run folder for galleries"""
    export: Targets = Field(default=[])
    """formats in which the student is shipped at the end, each run and compared: onnx, {onnx_int8: {...}} (transfuse ls targets)"""

    @field_validator("objectives", mode="before")
    @classmethod
    def _objectives(cls, value: Any) -> Any:
        return objective_list(value)
