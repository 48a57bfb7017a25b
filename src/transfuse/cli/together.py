"""Trains a network on two labelled sets at once."""

import click

from transfuse.cli.session import Session, recipe_text


@click.command()
@click.argument("arguments", metavar="[RECIPE.YAML] [KEY=VALUE]...", nargs=-1)
@click.pass_context
def command(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Trains a network on two labelled sets at once, L = L_target + lambda L_source, and ships it for the target.

    The keys are those of a recipe (transfuse new together shows them all):

    \b
      transfuse together source=idx:./mnist target=bundled:digits \\
                         student=builtin:convnet out=runs/digits \\
                         source_weight=[0,0.1,0.3,1]
    """
    if not arguments:
        raise click.UsageError("give a recipe, or at least source=..., target=... and student=...", context)
    from transfuse.recipe.load import from_arguments, split_arguments

    session: Session = context.obj
    session.start(from_arguments("together", arguments), recipe_text(*split_arguments(arguments)))
