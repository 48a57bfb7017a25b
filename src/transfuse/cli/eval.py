"""Measures trained models or runs on data."""

from __future__ import annotations

import click

from transfuse.cli.session import Session, recipe_text


@click.command()
@click.argument("arguments", metavar="[MODEL_OR_RUN]... [RECIPE.YAML] [KEY=VALUE]...", nargs=-1)
@click.pass_context
def command(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Measures trained models or runs on data: metrics with intervals, paired tests, cost, fidelity to a teacher, robustness.

    A model is a run folder, a file of weights or any model source; a run is measured on its own test split unless data are named.
    The keys are those of a recipe (transfuse new eval shows them all):

    \b
      transfuse eval runs/small
      transfuse eval runs/small runs/small#control \\
                     teacher=run:runs/small#teacher
      transfuse eval runs/a runs/b data=images:./photos part=all \\
                     robustness=true
      transfuse eval net=file:r20.safetensors data=images:./photos \\
                     models.net.preprocess.size=32
    """
    if not arguments:
        raise click.UsageError("say what to measure: a run folder, a file or a model source", context)
    from transfuse.recipe.load import from_arguments
    from transfuse.recipe.model_arguments import as_recipe

    given = as_recipe(arguments)
    session: Session = context.obj
    file = given[0] if given and given[0].endswith((".yaml", ".yml")) else None
    session.start(from_arguments("eval", given), recipe_text(file, given[1:] if file else given))
