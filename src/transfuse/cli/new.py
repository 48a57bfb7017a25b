"""Writes a commented recipe to fill in, or copies a shipped one."""

from pathlib import Path

import click

from transfuse.cli.session import Session


@click.command()
@click.argument("names", metavar="[JOB] [FILE]", nargs=-1)
@click.option("--from", "source", metavar="NAME", help="Copy a shipped recipe instead (transfuse ls recipes).")
@click.pass_context
def command(context: click.Context, names: tuple[str, ...], source: str | None) -> None:
    """Writes a recipe with every key, its default and what it is for. Never overwrites a file.

    \b
      transfuse new distill                    writes distill.yaml
      transfuse new distill mine.yaml
      transfuse new --from demo mine.yaml      copies a shipped recipe
    """
    if len(names) > (1 if source else 2) or not (names or source):
        raise click.UsageError("say which job, such as: transfuse new distill [FILE]; or: transfuse new --from NAME [FILE]", context)
    from transfuse.errors import RecipeError
    from transfuse.recipe import shipped, template

    if source:
        file = Path(names[0] if names else f"{source.removesuffix('.yaml')}.yaml")
        text = shipped.text(source)
    else:
        file = Path(names[1] if len(names) == 2 else f"{names[0]}.yaml")
        text = template.write(names[0].replace("-", "_"), str(file))
    try:
        with open(file, "x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError:
        raise RecipeError("exists already, and is left as it is", where=str(file), fix="choose another name") from None
    except (FileNotFoundError, NotADirectoryError):
        raise RecipeError("the folder doesn't exist", where=str(file.parent), fix="make it first") from None
    session: Session = context.obj
    session.console.write(f"wrote {file}\nrun it with: transfuse run {file}")
