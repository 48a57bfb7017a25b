"""The recipe of a feature extraction: a frozen network's features, computed once, and a head that is fitted to them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from transfuse.recipe.augment import MIXES, AugmentBlock
from transfuse.recipe.blocks import BudgetBlock, CacheBlock, DataBlock, ModelBlock, TrainBlock, source_string
from transfuse.recipe.delivery import Targets
from transfuse.recipe.methods import Block, one_method
from transfuse.recipe.schema import Recipe

Components = Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)]


class ChooseBlock(Block):
    folds: Annotated[int, Field(ge=2)] = 5
    """stratified folds of the training part on which the head's settings are chosen"""
    metric: str | None = None
    """what the folds are judged by; null: the task's first (accuracy, f1, rmse)"""


class ExtractRecipe(Recipe):
    """A head is fitted to the features of a frozen, pretrained network."""

    folded: ClassVar[str | None] = "data"
    not_the_controls: ClassVar[tuple[str, ...]] = ("taps", "head", "standardise", "components", "choose", "map")
    written: ClassVar[dict[str, str]] = {
        "job": "job: extract",
        "data.source": "  source: images:./photos",
        "model.source": "  source: torchvision:resnet18@DEFAULT",
        "head": "head: logistic  # logistic, linear_svm, rbf_svm, knn, ridge, random_forest, linear, mlp",
    }

    job: Literal["extract"] = "extract"
    data: Annotated[DataBlock, BeforeValidator(source_string)]
    """where the samples come from"""
    model: Annotated[ModelBlock, BeforeValidator(source_string)]
    """the pretrained network; it stays frozen"""
    taps: str | list[str] | None = None
    """module path(s) of the features, averaged over positions and put side by side; null: what the last layer is given"""
    head: dict[str, Any] = Field(default={"logistic": {}})
    """what is fitted; a setting that is a list is chosen from it: {logistic: {penalty: [100, 1, 0.01]}}"""
    standardise: bool = True
    """give each feature mean 0 and standard deviation 1 on the training part; folded into the shipped layer"""
    components: Components | None = None
    """keep so many principal components of the features, or so much of their variance: 64, 0.95"""
    choose: ChooseBlock = ChooseBlock()
    """how the head's settings are chosen, on the training part alone"""
    augment: AugmentBlock = AugmentBlock()
    """random changes; the head then learns from every view of each training sample"""
    map: Literal["pca", "tsne", "none"] = "pca"
    """how the report draws the training samples' features in two dimensions"""
    control: str = "untrained"
    """what the weights are compared with. untrained: the same head on the same network with random weights, at the same cost; train or
    reuse: that network trained from scratch on the labels, as `train` says; none; or the PATH of a run"""
    train: TrainBlock = TrainBlock()
    """how a control is trained from scratch"""
    cache: CacheBlock = CacheBlock()
    """features on disk: a second run computes none"""
    budget: BudgetBlock = BudgetBlock()
    """what the shipped network may cost; the report says met or missed"""
    samples: bool = True
    """keep a few raw inputs in the run folder for galleries"""
    export: Targets = Field(default=[])
    """formats in which the student is shipped at the end, each run and compared: onnx, {onnx_int8: {...}} (transfuse ls targets)"""

    @field_validator("head", mode="before")
    @classmethod
    def _head(cls, value: Any) -> Any:
        return one_method(value, "head")

    @field_validator("taps")
    @classmethod
    def _some_taps(cls, value: Any) -> Any:
        if isinstance(value, list) and (not value or len(set(value)) < len(value)):
            raise ValueError("name at least one module path, and each once")
        return value

    @model_validator(mode="after")
    def _repeatable_views(self) -> ExtractRecipe:
        if self.augment.views == "fresh":
            raise ValueError("augment.views: features are computed once per view, so there have to be so many: 4, say")
        mixing = [name for name in MIXES if getattr(self.augment, name)]
        if mixing:
            raise ValueError(f"augment.{mixing[0]}: a head is fitted to samples with one label each; leave it out")
        return self

    @property
    def paths(self) -> tuple[str, ...]:
        """The taps as a list; empty for what the last layer is given."""
        return (self.taps,) if isinstance(self.taps, str) else tuple(self.taps or ())
