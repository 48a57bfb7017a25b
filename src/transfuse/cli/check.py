"""Checks a recipe without training: data and models are opened, and every value is resolved."""

from __future__ import annotations

import click

from transfuse.cli.session import Session


@click.command()
@click.argument("recipe", metavar="RECIPE.YAML")
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.pass_obj
def command(session: Session, recipe: str, overrides: tuple[str, ...]) -> None:
    """Validates a recipe, opens and checks its data and models, and prints the recipe with every `auto` decided and the reason for it.

    Trains nothing and writes nothing. What it prints is a recipe again.
    """
    from transfuse.jobs.distill import inspect
    from transfuse.recipe.load import dump, load
    from transfuse.recipe.schema import DistillRecipe

    loaded = load(recipe, overrides)
    assert isinstance(loaded, DistillRecipe)
    resolved, reasons = inspect(loaded, session.console)
    session.console.write(dump(resolved, reasons).rstrip("\n"))
