"""Runs a recipe file, with overrides."""

import click

from transfuse.cli.session import Session, recipe_text


@click.command()
@click.argument("recipe", metavar="RECIPE.YAML")
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.pass_obj
def command(session: Session, recipe: str, overrides: tuple[str, ...]) -> None:
    """Runs the job of a recipe file.

    Keys can be set on the command line; objectives go by their names:

    \b
      transfuse run recipe.yaml seed=1 train.epochs=10 out=runs/ten
      transfuse run recipe.yaml objectives.kd.temperature=2
    """
    from transfuse.recipe.load import load

    session.start(load(recipe, overrides), recipe_text(recipe, overrides))
