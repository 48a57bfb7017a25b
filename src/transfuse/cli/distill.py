"""Distils teachers into a student, from a recipe or keys alone."""

import click

from transfuse.cli.session import Session, recipe_text


@click.command()
@click.argument("arguments", metavar="[RECIPE.YAML] [KEY=VALUE]...", nargs=-1)
@click.pass_context
def command(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Distils one or several teachers into a student.

    The keys are those of a recipe (transfuse new distill shows them all):

    \b
      transfuse distill data=images:./photos teacher=timm:resnet50.a1_in1k \\
                        student=timm:mobilenetv3_small_050 out=runs/photos
    """
    if not arguments:
        raise click.UsageError("give a recipe, or at least data=..., teacher=... and student=...", context)
    from transfuse.recipe.load import from_arguments, split_arguments

    session: Session = context.obj
    session.start(from_arguments("distill", arguments), recipe_text(*split_arguments(arguments)))
