"""Checks a recipe without training: opens its data and models."""

from __future__ import annotations

import click

from transfuse.cli.session import Session


@click.command()
@click.argument("recipe", metavar="RECIPE.YAML")
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.pass_obj
def command(session: Session, recipe: str, overrides: tuple[str, ...]) -> None:
    """Validates a recipe, opens and checks its data and models, and prints the recipe with every `auto` decided, and why.

    Trains nothing and writes nothing. What it prints is a recipe again.
    """
    from transfuse.jobs import check
    from transfuse.recipe.load import dump, load

    resolved, reasons = check.run(load(recipe, overrides), session.console)
    session.console.write(dump(resolved, reasons).rstrip("\n"))
    session.console.say(f"{recipe} can be run")
