"""Prints the JSON Schema of recipes, for editors."""

import click

from transfuse.cli.session import Session


@click.command()
@click.argument("job", required=False, default="distill")
@click.pass_obj
def command(session: Session, job: str) -> None:
    """Prints the JSON Schema of a job's recipes.

    Editors with a YAML language server complete keys and mark mistakes when a recipe begins with the second line:

    \b
      transfuse schema distill > distill.schema.json
      # yaml-language-server: $schema=distill.schema.json
    """
    import json

    from transfuse.recipe.jsonschema import build

    session.console.write(json.dumps(build(job.replace("-", "_")), indent=2, ensure_ascii=False))
