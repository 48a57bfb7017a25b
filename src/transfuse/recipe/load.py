"""Files, overrides and Python values -> a validated recipe; and back to YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from transfuse.core.registry import did_you_mean
from transfuse.errors import RecipeError
from transfuse.recipe import overrides as override_module
from transfuse.recipe.forms import display, open_up, plain
from transfuse.recipe.methods import ObjectiveBlock
from transfuse.recipe.problems import recipe_error
from transfuse.recipe.reading import Document, Dumper, lines_of, read_file, read_text
from transfuse.recipe.recipes import RECIPES
from transfuse.recipe.schema import Recipe


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe file, applies `a.b=value` overrides and validates.

    Raises:
        RecipeError: one line per problem, each with file and line or with the override.
    """
    return _validated(read_file(path), overrides)


def from_text(text: str, name: str = "recipe.yaml", overrides: Sequence[str] = ()) -> Recipe:
    """The same from a text in memory; `name` is what messages call it.

    Raises:
        RecipeError: one line per problem.
    """
    return _validated(read_text(text, name), overrides)


def from_values(values: Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """The same from Python values, which are not changed.

    Raises:
        RecipeError: one line per problem.
    """
    return _validated(Document(plain(dict(values))), overrides)


def from_arguments(job: str, arguments: Sequence[str]) -> Recipe:
    """The recipe of `transfuse JOB [recipe.yaml] key=value ...`.

    Raises:
        RecipeError: the file is another job's, or one line per problem.
    """
    file, overrides = split_arguments(arguments)
    if file is None:
        return _validated(Document({"job": job}), overrides)
    document = read_file(file)
    found = document.values.get("job")
    if found is not None and found == RECIPES[job].grows_from:
        document.values["job"] = found = job
    if found != job:
        what = f"is a recipe for '{found}', not for '{job}'" if found else "doesn't say which job it is for"
        fix = f"run it with: transfuse run {file}" if found else f"add the line: job: {job}"
        raise RecipeError(what, where=document.where(("job",)), fix=fix)
    return _validated(document, overrides)


def split_arguments(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """(recipe file or None, overrides): a first argument that is no key=value is a file."""
    arguments = list(arguments)
    if arguments and ("=" not in arguments[0] or Path(arguments[0]).is_file()):
        return arguments[0], arguments[1:]
    return None, arguments


def _validated(document: Document, overrides: Sequence[str]) -> Recipe:
    open_up(document)
    override_module.apply(document, overrides)
    job = document.values.get("job")
    if not isinstance(job, str) or job not in RECIPES:
        jobs, where = ", ".join(RECIPES), document.where(("job",)) or None
        if job is None:
            raise RecipeError("job: is missing: what the recipe is for", where=where, fix=f"add the line job: NAME, with one of: {jobs}")
        raise RecipeError(f"job: unknown job '{job}'{did_you_mean(str(job), RECIPES)}", where=where, fix=f"known: {jobs}")
    try:
        return RECIPES[job].model_validate(document.values)
    except ValidationError as error:
        raise recipe_error(error, document) from None


def values_of(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain values in the form in which people write it; `from_values` gives the same recipe back."""
    values = recipe.model_dump()
    listed = getattr(recipe, "objectives", None)
    if isinstance(listed, list):
        values["objectives"] = [block.entry() if isinstance(block, ObjectiveBlock) else block for block in listed]
    ways = getattr(recipe, "how", None)
    if isinstance(ways, list):
        values["how"] = [way.entry() for way in ways]
    return values


def dump(recipe: Recipe, reasons: Mapping[str, str] | None = None) -> str:
    """YAML of a recipe that loads back equal.

    Args:
        recipe: any valid recipe.
        reasons: recipe key -> why it has its value, as `resolve` gives them; written as comments.
    """
    values = values_of(recipe)
    text = yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1_000_000, default_flow_style=False)
    comments: dict[int, list[str]] = {}
    for key, line in lines_of(text).items():
        reason = (reasons or {}).get(display(key, values))
        if reason:
            comments.setdefault(line, [])
            if reason not in comments[line]:
                comments[line].append(" ".join(reason.split()))
    lines = text.splitlines()
    for number, found in comments.items():
        lines[number - 1] += f"  # {'; '.join(found)}"
    return "\n".join(lines) + "\n"
