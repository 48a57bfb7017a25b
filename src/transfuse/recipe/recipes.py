"""Which jobs there are: job -> the class of its recipe. `transfuse.jobs.JOB` runs it."""

from __future__ import annotations

from transfuse.recipe.adapt import AdaptRecipe
from transfuse.recipe.assistants import AssistantsRecipe
from transfuse.recipe.born_again import BornAgainRecipe
from transfuse.recipe.eval import EvalRecipe
from transfuse.recipe.extract import ExtractRecipe
from transfuse.recipe.finetune import FinetuneRecipe
from transfuse.recipe.fuse import FuseRecipe
from transfuse.recipe.schema import DistillRecipe, Recipe
from transfuse.recipe.sweep import SweepRecipe
from transfuse.recipe.together import TogetherRecipe

RECIPES: dict[str, type[Recipe]] = {
    "distill": DistillRecipe,
    "adapt": AdaptRecipe,
    "together": TogetherRecipe,
    "extract": ExtractRecipe,
    "fuse": FuseRecipe,
    "finetune": FinetuneRecipe,
    "born_again": BornAgainRecipe,
    "assistants": AssistantsRecipe,
    "sweep": SweepRecipe,
    "eval": EvalRecipe,
}
