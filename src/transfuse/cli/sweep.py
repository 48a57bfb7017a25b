"""Tries many values of a recipe's keys with one teacher and cache."""

import click

from transfuse.cli.session import Session, recipe_text


@click.command()
@click.argument("arguments", metavar="[RECIPE.YAML] [KEY=VALUE]...", nargs=-1)
@click.pass_context
def command(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Runs a distillation with every combination of the values in `space`, or searches in it, and chooses on the validation split.

    Takes a sweep's recipe, a distillation's, or keys alone (transfuse new sweep shows them all):

    \b
      transfuse sweep distill.yaml space.objectives.kd.temperature=[1,2,4]
      transfuse sweep distill.yaml trials=20 \\
                'space.train.optimizer.adamw.lr={low: 1e-4, high: 0.01}'
    """
    if not arguments:
        raise click.UsageError("give a recipe and what to try, such as space.objectives.kd.temperature=[1,2,4]", context)
    from transfuse.recipe.load import from_arguments, split_arguments

    session: Session = context.obj
    session.start(from_arguments("sweep", arguments), recipe_text(*split_arguments(arguments)))
