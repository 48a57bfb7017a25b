"""Makes one model of several trained ones."""

import click

from transfuse.cli.session import Session, recipe_text


@click.command()
@click.argument("arguments", metavar="[RECIPE.YAML] [KEY=VALUE]...", nargs=-1)
@click.pass_context
def command(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Makes one model of several trained ones, of whatever architecture, input size and order of classes.

    The ways that apply are tried, compared on validation, and the best within the budget is shipped.
    The keys are those of a recipe (transfuse new fuse shows them all):

    \b
      transfuse fuse data=images:./photos how=auto budget.bytes=4MB \\
                     'sources={a: run:runs/a, b: timm:resnet18.a1_in1k}' \\
                     student=timm:mobilenetv3_small_050 out=runs/one
    """
    if not arguments:
        raise click.UsageError("give a recipe, or at least data=... and sources={NAME: SOURCE, ...}", context)
    from transfuse.recipe.load import from_arguments, split_arguments

    session: Session = context.obj
    session.start(from_arguments("fuse", arguments), recipe_text(*split_arguments(arguments)))
