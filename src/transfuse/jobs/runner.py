"""Which module runs a recipe: that of its job, or one that repeats any job with several seeds or on several folds."""

from __future__ import annotations

import importlib
from types import ModuleType

from transfuse.recipe.schema import Recipe


def runner_of(recipe: Recipe) -> ModuleType:
    """A module with `run(recipe, reporter, recipe_text, live)` and `resume(context, recipe)`; that of a job whose recipe is no
    distillation's also has `check(recipe, reporter, live)`."""
    name = "seeds" if recipe.seed_list() else "folds" if recipe.validate is not None else recipe.job
    return importlib.import_module(f"transfuse.jobs.{name}")
