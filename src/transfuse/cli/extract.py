"""Fits a head to the features of a frozen, pretrained network."""

import click

from transfuse.cli.session import Session, recipe_text


@click.command()
@click.argument("arguments", metavar="[RECIPE.YAML] [KEY=VALUE]...", nargs=-1)
@click.pass_context
def command(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Fits a head to the features of a frozen network. Features are computed once and remembered on disk.

    The head's settings are chosen by cross-validation on the training part; network and head are shipped as one network. The keys are
    those of a recipe (transfuse new extract shows them all):

    \b
      transfuse extract data=images:./photos model=torchvision:resnet18@DEFAULT \\
                        head=logistic out=runs/photos
    """
    if not arguments:
        raise click.UsageError("give a recipe, or at least data=... and model=...", context)
    from transfuse.recipe.load import from_arguments, split_arguments

    session: Session = context.obj
    session.start(from_arguments("extract", arguments), recipe_text(*split_arguments(arguments)))
