"""Generations of one network, each taught by the one before it."""

import click

from transfuse.cli.session import Session, recipe_text


@click.command("born-again")
@click.argument("arguments", metavar="[RECIPE.YAML] [KEY=VALUE]...", nargs=-1)
@click.pass_context
def command(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Trains a network from labels, lets it teach another one of its kind, that the next, and reports every generation and their mean.

    The keys are those of a recipe (transfuse new born-again shows them all):

    \b
      transfuse born-again data=images:./photos student=builtin:resnet20
    """
    if not arguments:
        raise click.UsageError("give a recipe, or at least data=... and student=...", context)
    from transfuse.recipe.load import from_arguments, split_arguments

    session: Session = context.obj
    session.start(from_arguments("born_again", arguments), recipe_text(*split_arguments(arguments)))
