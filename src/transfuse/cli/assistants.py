"""Teaches a student by way of networks between it and its teacher."""

import click

from transfuse.cli.session import Session, recipe_text


@click.command()
@click.argument("arguments", metavar="[RECIPE.YAML] [KEY=VALUE]...", nargs=-1)
@click.pass_context
def command(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Distils along a chain: the teacher teaches the first assistant, that the next, the last one the student. Beside it the student that
    the teacher taught alone.

    The keys are those of a recipe (transfuse new assistants shows them all):

    \b
      transfuse assistants data=images:./photos teacher=timm:resnet50.a1_in1k \\
                           assistants=[builtin:resnet56] student=builtin:resnet20
    """
    if not arguments:
        raise click.UsageError("give a recipe, or at least data=..., teacher=..., assistants=[...] and student=...", context)
    from transfuse.recipe.load import from_arguments, split_arguments

    session: Session = context.obj
    session.start(from_arguments("assistants", arguments), recipe_text(*split_arguments(arguments)))
