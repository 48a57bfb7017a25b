"""transfuse check: what a job does before it trains, and nothing else."""

from __future__ import annotations

from transfuse.core.protocols import Reporter, Silent
from transfuse.engine import parallel
from transfuse.jobs.context import Context, Live
from transfuse.jobs.prepare import opening
from transfuse.jobs.rundir import RunDir, default_out
from transfuse.jobs.runner import runner_of
from transfuse.recipe.schema import DistillRecipe, Recipe


def run(recipe: Recipe, reporter: Reporter | None = None, live: Live | None = None) -> tuple[Recipe, dict[str, str]]:
    """Validates a recipe against its data and models; writes nothing.

    Args:
        recipe: as the user wrote it.
        reporter: who is told what was found.
        live: objects in place of strings.

    Returns:
        The resolved recipe, and why each `auto` became what it is.

    Raises:
        TransfuseError: the job would refuse the recipe.
    """
    own = getattr(runner_of(recipe), "check", None)
    if own is not None:  # a job of several runs knows what it will run
        return own(recipe, reporter or Silent(), live or Live())
    assert isinstance(recipe, DistillRecipe)
    context = Context(RunDir(recipe.out or default_out(recipe.job)), reporter or Silent(), parallel.start(), live or Live())
    opened = opening.prepare(recipe, context)
    return opened.recipe, opened.reasons
