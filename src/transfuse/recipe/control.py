"""What identifies a control: the resolved recipe without all that transfers, so that equal controls are trained once."""

from __future__ import annotations

from typing import Any

from transfuse.core.card import TaskName
from transfuse.recipe.adapt import AdaptRecipe
from transfuse.recipe.extract import ExtractRecipe
from transfuse.recipe.finetune import FinetuneRecipe
from transfuse.recipe.methods import ObjectiveBlock, parse_objective
from transfuse.recipe.needs import LABEL_OBJECTIVE, card_of
from transfuse.recipe.schema import DistillRecipe, Recipe
from transfuse.recipe.together import TogetherRecipe

StudentRecipe = DistillRecipe | AdaptRecipe | ExtractRecipe | FinetuneRecipe | TogetherRecipe
"""Recipes of jobs that train one student beside a control."""

_NOT_THE_CONTROLS = (
    *("seeds", "teachers", "peers", "out", "control", "cache", "budget", "samples", "track", "export", "target_labels", "validate"),
)


def control_key_values(recipe: Recipe) -> dict[str, Any]:
    """The values that decide the control's bits, for hashing.

    Teachers, objectives that transfer, and keys about output are left out. Weights of the label objectives are divided by their sum:
    the control has the same loss whatever share the labels had beside the teacher.

    Args:
        recipe: a resolved recipe.
    """
    assert isinstance(recipe, StudentRecipe)
    values = recipe.model_dump()
    for key in (*_NOT_THE_CONTROLS, *recipe.not_the_controls):
        values.pop(key, None)
    for key in ("student", "model"):
        if isinstance(values.get(key), dict):
            values[key].pop("init", None)  # the control of a start from other weights is the same network from a random one
    values["objectives"] = [block.model_dump() for block in control_objectives(recipe)]
    if len(values["objectives"]) == 1:
        values["train"]["gradients"] = "sum"  # one term has nobody to disagree with
    return values


def control_objectives(recipe: StudentRecipe, task: TaskName | None = None) -> list[ObjectiveBlock]:
    """The label objectives of a resolved recipe, weights normalised; the task's default one where the recipe has none.

    A single one has weight 1. Of several, fixed weights are divided by their sum; weights that change over the run stay as they are.
    Objectives that were handed over as objects are left out: only the run that was given them could repeat them.

    Args:
        recipe: a resolved recipe.
        task: of the data; None: as the recipe says.
    """
    listed = [] if isinstance(recipe, (ExtractRecipe, TogetherRecipe)) else recipe.objectives
    assert isinstance(listed, list), "the recipe is not resolved"
    kept = [block for block in listed if not card_of(block.name, block.method).transfers]
    if not kept or all(block.weight == 0 for block in kept):
        named = getattr(recipe, recipe.data_keys[-1]).task  # of two sets, both have labels of one kind
        task = task or (None if named == "auto" else named)
        assert task is not None, "the recipe is not resolved"
        kept = [ObjectiveBlock(**parse_objective(LABEL_OBJECTIVE[task]))]
    if len(kept) == 1:
        return [kept[0].model_copy(update={"weight": 1.0})]
    weights = [float(block.weight) for block in kept if isinstance(block.weight, (int, float))]
    if len(weights) < len(kept):
        return kept
    return [block.model_copy(update={"weight": weight / sum(weights)}) for block, weight in zip(kept, weights, strict=True)]
