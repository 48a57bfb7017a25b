"""Which jobs there are: job -> the class of its recipe. `transfuse.jobs.JOB` runs it."""

from __future__ import annotations

from transfuse.recipe.schema import DistillRecipe, Recipe

RECIPES: dict[str, type[Recipe]] = {"distill": DistillRecipe}
