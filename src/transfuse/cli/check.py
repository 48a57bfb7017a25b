"""Checks a recipe without training: opens its data and models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from transfuse.cli.session import Session

if TYPE_CHECKING:
    from transfuse.core.protocols import Reporter
    from transfuse.recipe.schema import DistillRecipe


@click.command()
@click.argument("recipe", metavar="RECIPE.YAML")
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.pass_obj
def command(session: Session, recipe: str, overrides: tuple[str, ...]) -> None:
    """Validates a recipe, opens and checks its data and models, and prints the recipe with every `auto` decided, and why.

    Trains nothing and writes nothing. What it prints is a recipe again.
    """
    from transfuse.recipe.load import dump, load
    from transfuse.recipe.schema import DistillRecipe

    loaded = load(recipe, overrides)
    assert isinstance(loaded, DistillRecipe)
    resolved, reasons = inspect(loaded, session.console)
    session.console.write(dump(resolved, reasons).rstrip("\n"))
    session.console.say(f"{recipe} can be run")


def inspect(recipe: DistillRecipe, reporter: Reporter) -> tuple[DistillRecipe, dict[str, str]]:
    """What a job does before it trains, without a run folder; gives the resolved recipe and its reasons.

    Raises:
        TransfuseError: the job would refuse the recipe.
    """
    from transfuse.data import check
    from transfuse.engine import parallel
    from transfuse.jobs import opening
    from transfuse.jobs.context import Context
    from transfuse.jobs.networks import open_student, open_teacher
    from transfuse.jobs.rundir import RunDir, default_out
    from transfuse.recipe.resolve import resolve
    from transfuse.recipe.schema import DistillRecipe

    out = recipe.out or default_out(recipe.job)
    context = Context(RunDir(out), reporter, parallel.start())
    context.rundir.refuse_occupied()
    data = opening.open_data_of(recipe, context)
    for warning in check.check(data):
        context.say(warning)
    resolved, reasons = resolve(recipe, opening.facts_of(recipe, data, context, out))
    assert isinstance(resolved, DistillRecipe)
    for name, teacher in resolved.teachers.items():
        open_teacher(name, teacher, data, resolved.seed, None, teacher.train is not None)
    open_student(resolved.student, data, resolved.seed, None)
    return resolved, reasons
