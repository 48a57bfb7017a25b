"""Adapts a network from a labelled source to an unlabelled target."""

import click

from transfuse.cli.session import Session, recipe_text


@click.command()
@click.argument("arguments", metavar="[RECIPE.YAML] [KEY=VALUE]...", nargs=-1)
@click.pass_context
def command(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Adapts a network from a labelled source to a target domain of the same classes, whose labels it doesn't see.

    The keys are those of a recipe (transfuse new adapt shows them all):

    \b
      transfuse adapt source=images:./drawings target=images:./photos \\
                      student=timm:mobilenetv3_small_050 out=runs/photos
    """
    if not arguments:
        raise click.UsageError("give a recipe, or at least source=..., target=... and student=...", context)
    from transfuse.recipe.load import from_arguments, split_arguments

    session: Session = context.obj
    session.start(from_arguments("adapt", arguments), recipe_text(*split_arguments(arguments)))
