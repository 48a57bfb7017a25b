"""The recipe of learning from two labelled sets at once: L = L_target + lambda L_source."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from transfuse.recipe.augment import AugmentBlock
from transfuse.recipe.blocks import BudgetBlock, CacheBlock, DataBlock, ModelBlock, TrainBlock, source_string
from transfuse.recipe.delivery import Targets
from transfuse.recipe.methods import one_method
from transfuse.recipe.schema import Recipe

NotNegative = Annotated[float, Field(ge=0)]


class TogetherRecipe(Recipe):
    """A network learns from the labels of a source and of a target at once, and is shipped for the target."""

    data_keys: ClassVar[tuple[str, ...]] = ("source", "target")
    folded: ClassVar[str | None] = "target"
    not_the_controls: ClassVar[tuple[str, ...]] = ("heads", "source_weight")
    written: ClassVar[dict[str, str]] = {
        "job": "job: together",
        "source.source": "  source: idx:./mnist",
        "target.source": "  source: bundled:digits",
        "student.source": "  source: builtin:convnet",
        "source_weight": "source_weight: [0, 0.1, 0.3, 1]  # lambda in L_target + lambda L_source; of a list, validation chooses",
    }

    job: Literal["together"] = "together"
    source: Annotated[DataBlock, BeforeValidator(source_string)]
    """a labelled set from elsewhere, or of another task"""
    target: Annotated[DataBlock, BeforeValidator(source_string)]
    """the labelled set that the network is shipped for; its validation part selects, its test part is what is reported"""
    heads: Literal["auto", "shared", "own"] = "auto"
    """shared: one last layer for both, which takes the same classes; own: one for each; auto: shared where the classes are the same"""
    source_weight: NotNegative | Annotated[list[NotNegative], Field(min_length=1)] | Literal["uncertainty"] | dict[str, Any] = 1.0
    """lambda in L_target + lambda L_source; a list: the target's validation part chooses; {linear: {start: 1, end: 0}}: changes over the
    run; uncertainty: both terms have weights that are learnt (Kendall, Gal, Cipolla, 2018)"""
    target_share: Annotated[float, Field(gt=0, lt=1)] | Literal["size"] = 0.5
    """the target's share of each batch, whatever the sizes of the sets; size: as the sets have it"""
    student: Annotated[ModelBlock, BeforeValidator(source_string)]
    """the network that is trained and shipped"""
    augment: AugmentBlock = AugmentBlock()
    """random changes of the inputs of both sets"""
    train: TrainBlock = TrainBlock()
    """how the student (and the control) is trained; an epoch is over when both sets were passed through. gradients: pcgrad lets the two
    terms give way to each other"""
    control: str = "reuse"
    """the same student from the target alone: reuse a stored one, train anew, none, or the PATH of a run"""
    cache: CacheBlock = CacheBlock()
    """where controls are kept"""
    budget: BudgetBlock = BudgetBlock()
    """what the student may cost; the report says met or missed"""
    samples: bool = True
    """keep a few raw inputs of the target's test part in the run folder for galleries"""
    export: Targets = Field(default=[])
    """formats in which the student is shipped at the end, each run and compared: onnx, {onnx_int8: {...}} (transfuse ls targets)"""

    @field_validator("source_weight", mode="before")
    @classmethod
    def _weight(cls, value: Any) -> Any:
        given = value if isinstance(value, list) else [value]
        negative = [entry for entry in given if isinstance(entry, (int, float)) and not isinstance(entry, bool) and entry < 0]
        if negative:
            raise ValueError(f"{negative[0]:g} is negative: the source's loss would be raised; 0 leaves the source out")
        if isinstance(value, list) and len(set(map(str, value))) < len(value):
            raise ValueError("a value is there twice")
        if isinstance(value, dict) or (isinstance(value, str) and value != "uncertainty"):
            return one_method(value, "weight")
        return value

    @property
    def candidates(self) -> list[float]:
        """The values that validation chooses among; empty where there is nothing to choose."""
        return list(self.source_weight) if isinstance(self.source_weight, list) else []
