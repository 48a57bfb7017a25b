"""transfuse check: what a job does before it trains, and nothing else."""

from __future__ import annotations

from transfuse.core.protocols import Reporter, Silent
from transfuse.engine import parallel
from transfuse.jobs import opening
from transfuse.jobs.context import Context
from transfuse.jobs.rundir import RunDir, default_out
from transfuse.recipe.schema import DistillRecipe


def run(recipe: DistillRecipe, reporter: Reporter | None = None) -> tuple[DistillRecipe, dict[str, str]]:
    """Validates a recipe against its data and models; writes nothing.

    Args:
        recipe: as the user wrote it.
        reporter: who is told what was found.

    Returns:
        The resolved recipe, and why each `auto` became what it is.

    Raises:
        TransfuseError: the job would refuse the recipe.
    """
    context = Context(RunDir(recipe.out or default_out(recipe.job)), reporter or Silent(), parallel.start())
    opened = opening.prepare(recipe, context)
    return opened.recipe, opened.reasons
