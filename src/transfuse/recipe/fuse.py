"""The recipe of a fusion: trained models, ways to make one of them, and what the result may cost."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from transfuse.recipe.augment import AugmentBlock
from transfuse.recipe.blocks import BudgetBlock, CacheBlock, DataBlock, LearnerBlock, ModelBlock, TrainBlock, source_string
from transfuse.recipe.delivery import Targets
from transfuse.recipe.fused_features import FeaturesBlock
from transfuse.recipe.methods import Auto, Block, ObjectiveBlock
from transfuse.recipe.problems import raise_all, under
from transfuse.recipe.schema import PeerName, Recipe, objective_list
from transfuse.recipe.ways import TRAINED, parse_way


class WayBlock(Block):
    """One way to fuse, whatever its room: the rule's own parameters are in `parameters`."""

    name: str
    """single, outputs.weighted, features.concat, weights.ties, distill or amalgamate"""
    parameters: dict[str, Any] = Field(default={})

    def entry(self) -> str | dict[str, Any]:
        """As a recipe writes it: outputs.gate or {outputs.gate: {penalty: 0.01}}."""
        return {self.name: self.parameters} if self.parameters else self.name


class FuseRecipe(Recipe):
    """Several trained models become one."""

    not_folded: ClassVar[str] = (
        "its sources are trained already, most often on these very samples, so a fold would hold nothing out; rules that are fitted are "
        "cross-fitted on the validation part, and the test part is for the report (seeds: 5 repeats what is trained)"
    )
    written: ClassVar[dict[str, str]] = {
        "job": "job: fuse",
        "data.source": "  source: bundled:digits",
        "sources": "sources:  # name -> a trained model, or a table of predictions\n"
        "  a: run:runs/a\n  b: {source: file:b.pth, architecture: builtin:resnet20}",
    }

    job: Literal["fuse"] = "fuse"
    data: Annotated[DataBlock, BeforeValidator(source_string)]
    """samples to fuse on: weights are fitted and ways chosen on the validation part, test is for the report"""
    sources: Annotated[dict[PeerName, Annotated[ModelBlock, BeforeValidator(source_string)]], Field(min_length=2)]
    """name -> a trained model or a table of predictions; architecture, input size and order of classes may differ"""
    missing: Literal["refuse", "skip"] = "refuse"
    """what to do where a source's file is not there: stop, or go on without it"""
    how: Annotated[list[WayBlock], Field(min_length=1)] | Auto = "auto"
    """a way (weighted, outputs.gate, features.concat, weights.ties, distill, amalgamate), a list of ways, or auto: all that apply"""
    base: Annotated[ModelBlock, BeforeValidator(source_string)] | None = None
    """the weights that the sources were trained from, for task arithmetic, TIES, DARE and model stock"""
    features: FeaturesBlock = FeaturesBlock()
    """how features are brought together and heads are trained"""
    select_by: str | None = None
    """validation metric that chooses among ways; null: the task's first (accuracy, f1, rmse)"""
    student: Annotated[LearnerBlock, BeforeValidator(source_string)] | None = None
    """a smaller network that learns from what was fused, unless that meets a budget as it is"""
    objectives: Annotated[list[ObjectiveBlock], Field(min_length=1)] | Auto = "auto"
    """terms of the student's loss, as in a distillation"""
    augment: AugmentBlock = AugmentBlock()
    """random changes of the inputs while the student learns"""
    train: TrainBlock = TrainBlock()
    """how the student is trained"""
    control: str = "reuse"
    """the student from labels alone, beside the distilled one: reuse, train or none"""
    cache: CacheBlock = CacheBlock()
    """the sources' answers on disk"""
    budget: BudgetBlock = BudgetBlock()
    """what the result may cost"""
    samples: bool = True
    """keep a few raw inputs in the run folder for galleries"""
    export: Targets = Field(default=[])
    """formats in which what is fused is shipped at the end, each run and compared: onnx, {onnx_int8: {...}} (transfuse ls targets)"""

    @field_validator("how", mode="before")
    @classmethod
    def _how(cls, value: Any) -> Any:
        if value == "auto":
            return value
        if isinstance(value, (str, dict)):
            value = [value] if isinstance(value, str) else [{name: settings} for name, settings in value.items()]
        if not isinstance(value, list):
            raise ValueError("how is a way such as weighted, a list of ways, or auto")
        found, problems = [], []
        for index, item in enumerate(value):
            try:
                found.append(parse_way(item))
            except ValidationError as error:
                problems.extend(under((index,), error))
        raise_all("how", problems)
        return found

    @field_validator("objectives", mode="before")
    @classmethod
    def _objectives(cls, value: Any) -> Any:
        return objective_list(value)

    @model_validator(mode="after")
    def _student_where_it_is_needed(self) -> FuseRecipe:
        ways = [way.name for way in self.how] if isinstance(self.how, list) else []
        if len(set(ways)) < len(ways):
            raise ValueError("how: a way is there twice")
        if "amalgamate" in ways and len(ways) > 1:
            raise ValueError("how: amalgamate joins sources with different classes, which no other way can; name it alone")
        for name in TRAINED:
            if name in ways and self.student is None:
                raise ValueError(f"how: {name} trains a student, and the recipe has none; add student: SOURCE")
            if name in ways and len(ways) > 1:
                raise ValueError(f"how: {name} is taken alone; with other ways the student learns from the best of them")
        return self
