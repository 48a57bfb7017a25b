"""The recipe of a fine-tuning: a pretrained network, a new task, and the policy by which it is adapted."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from transfuse.errors import RecipeError
from transfuse.recipe.augment import AugmentBlock
from transfuse.recipe.blocks import BudgetBlock, CacheBlock, DataBlock, LearnerBlock, Positive, TrainBlock, source_string
from transfuse.recipe.delivery import Targets
from transfuse.recipe.methods import Auto, Block, ObjectiveBlock, one_method
from transfuse.recipe.schema import Recipe, objective_list

FEWEST = 5  # steps that a trial of `depth` has to have
START = "start"  # what objectives call the pretrained network as it was


class DepthBlock(Block):
    """How `depth` chooses a policy."""

    candidates: Annotated[list[dict[str, Any]], Field(min_length=2)] = Field(default=[{"probe": {}}, {"lp_ft": {}}, {"full": {}}])
    """policies that are tried"""
    folds: Annotated[int, Field(ge=2, le=20)] | None = 3
    """stratified folds of the training part on which they are compared; null: on the validation part"""
    budget: Annotated[float, Field(gt=0, le=100)] = 3.0
    """steps of the whole search, over those of one training"""

    @field_validator("candidates", mode="before")
    @classmethod
    def _candidates(cls, value: Any) -> Any:
        found = [one_method(entry, "policy") for entry in value] if isinstance(value, list) else value
        if isinstance(found, list) and any(entry in found[:place] for place, entry in enumerate(found)):
            raise ValueError("a candidate is there twice")
        return found

    def rounds(self, steps: int) -> list[tuple[int, int]]:
        """(candidates, steps of each of their trainings) per round of successive halving; rounds share budget * steps evenly.

        Args:
            steps: of one whole training.

        Raises:
            RecipeError: a trial would have fewer than 5 steps.
        """
        counts, folds = [len(self.candidates)], self.folds or 1
        while counts[-1] > 2:
            counts.append(math.ceil(counts[-1] / 2))
        found = [(count, round(self.budget * steps / len(counts) / (count * folds))) for count in counts]
        if found[0][1] < FEWEST:
            what = f"the first round would have {found[0][1]} steps for each of {found[0][0]} candidates, on each of {folds} folds"
            raise RecipeError(what, where="depth.budget", fix="raise it, train for more steps, or use fewer folds")
        return found


class AverageBlock(Block):
    """Which average of one run's weights is shipped."""

    how: Literal["wise_ft", "greedy_soup"]
    """wise_ft: between the start and the end; greedy_soup: of the best checkpoints"""
    points: Annotated[int, Field(ge=2, le=100)] = 11
    """wise_ft: values of alpha from 0 to 1 that are tried"""
    checkpoints: Annotated[int, Field(ge=2, le=50)] = 5
    """greedy_soup: how many of the best validated weights take part"""


def _average(value: Any) -> Any:
    return {"how": value} if isinstance(value, str) else value


def _depth(value: Any) -> Any:
    return {} if value == "auto" else value


def _rate(value: Any) -> Any:
    return "find" if value == "auto" else value


LearningRate = Annotated[Positive | Literal["find"] | None, BeforeValidator(_rate)]


class FinetuneRecipe(Recipe):
    """A pretrained network learns a new task from labels, by a policy that says what is trained, when and how fast."""

    folded: ClassVar[str | None] = "data"
    not_the_controls: ClassVar[tuple[str, ...]] = ("model", "policy", "depth", "batchnorm", "average", "lr", "control_lr")
    written: ClassVar[dict[str, str]] = {
        "job": "job: finetune",
        "data.source": "  source: images:./photos",
        "model.source": "  source: timm:mobilenetv3_small_100.lamb_in1k",
        "policy": "policy: full  # what is trained, when, how fast: full, probe, lp_ft, gradual, lora ... (transfuse ls policies)",
    }

    job: Literal["finetune"] = "finetune"
    data: Annotated[DataBlock, BeforeValidator(source_string)]
    """where the samples come from"""
    model: Annotated[LearnerBlock, BeforeValidator(source_string)]
    """the pretrained network; its head is replaced where it has other outputs than the data"""
    policy: dict[str, Any] = Field(default={"full": {}})
    """what is trained, when, and how fast: lp_ft, or with settings {gradual: {until: 0.5}}"""
    depth: Annotated[DepthBlock | None, BeforeValidator(_depth)] = None
    """auto: try probe, lp_ft and full by successive halving, and take the best as the policy; null: take `policy`"""
    batchnorm: Literal["follow", "train", "frozen"] = "follow"
    """follow: a layer's statistics move while its weights are trained; train: always; frozen: neither statistics nor weights change"""
    average: Annotated[AverageBlock | None, BeforeValidator(_average)] = None
    """wise_ft or greedy_soup: ship an average over this run, chosen on validation, with BatchNorm's statistics re-estimated"""
    lr: LearningRate = None
    """peak learning rate; auto or find: by a range test on the training part; null: the optimizer's own"""
    control_lr: LearningRate = None
    """the control's, as a network from scratch may want another one; null: as `lr` says"""
    objectives: Annotated[list[ObjectiveBlock], Field(min_length=1)] | Auto = "auto"
    """terms of the loss; auto: the labels. l2_sp, delta, bss, co_tuning and bi_tuning hold on to the start, or use it"""
    augment: AugmentBlock = AugmentBlock()
    """random changes of the inputs"""
    train: TrainBlock = TrainBlock()
    """how the network (and the control) is trained; phases of a policy share the steps"""
    control: str = "reuse"
    """the same network from scratch in as many steps: reuse a stored one, train anew, none, or the PATH of a run"""
    cache: CacheBlock = CacheBlock()
    """where controls, and features of a frozen network, are kept"""
    budget: BudgetBlock = BudgetBlock()
    """what the network may cost; the report says met or missed"""
    samples: bool = True
    """keep a few raw inputs in the run folder for galleries"""
    export: Targets = Field(default=[])
    """formats in which the student is shipped at the end, each run and compared: onnx, {onnx_int8: {...}} (transfuse ls targets)"""

    @field_validator("policy", mode="before")
    @classmethod
    def _policy(cls, value: Any) -> Any:
        return one_method(value, "policy")

    @field_validator("objectives", mode="before")
    @classmethod
    def _objectives(cls, value: Any) -> Any:
        return objective_list(value)

    @model_validator(mode="before")
    @classmethod
    def _one_choice(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("depth") is not None and _chosen(values.get("policy")):
            raise ValueError("policy: depth chooses the policy; keep one of them")
        return values

    @field_validator("model")
    @classmethod
    def _own_weights(cls, value: LearnerBlock) -> LearnerBlock:
        if value.init is not None:
            raise ValueError("init: a fine-tuning begins with the model's own weights; for other ones run a distill with student.init")
        return value

    @property
    def snapshots(self) -> int:
        """Checkpoints that are kept for a soup."""
        return self.average.checkpoints if self.average is not None and self.average.how == "greedy_soup" else 0


def _chosen(policy: Any) -> bool:
    """Whether somebody named a policy, rather than the default standing there."""
    return policy is not None and one_method(policy, "policy") != one_method("full", "policy")
