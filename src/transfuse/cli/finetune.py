"""Fine-tunes a pretrained network to new data by a policy."""

import click

from transfuse.cli.session import Session, recipe_text


@click.command()
@click.argument("arguments", metavar="[RECIPE.YAML] [KEY=VALUE]...", nargs=-1)
@click.pass_context
def command(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Fine-tunes a pretrained network to new data, beside the same network from scratch.

    The keys are those of a recipe (transfuse new finetune shows them all):

    \b
      transfuse finetune data=images:./photos policy=lp_ft out=runs/photos \\
                         model=timm:mobilenetv3_small_100.lamb_in1k
      transfuse finetune data=images:./photos model=file:net.safetensors \\
                         depth=auto lr=auto
    """
    if not arguments:
        raise click.UsageError("give a recipe, or at least data=... and model=...", context)
    from transfuse.recipe.load import from_arguments, split_arguments

    session: Session = context.obj
    session.start(from_arguments("finetune", arguments), recipe_text(*split_arguments(arguments)))
