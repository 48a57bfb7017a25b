"""A commented recipe of a job, made from the schema: what has to be said is there, all else as comments with its default."""

from __future__ import annotations

import textwrap
from typing import Any, get_args

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from transfuse.core.registry import did_you_mean
from transfuse.errors import RecipeError
from transfuse.recipe.blocks import ModelBlock, TrainBlock
from transfuse.recipe.methods import Block
from transfuse.recipe.reading import Dumper
from transfuse.recipe.recipes import RECIPES

WIDTH = 120
_HEAD = """\
# {title}
# Every key is here; a line such as '# seed: 0' shows a default: remove the '# ' to change it.
# Run it with: transfuse run {file}     What there is to choose from: transfuse ls
"""


def write(job: str, file: str = "recipe.yaml") -> str:
    """The recipe's text.

    Args:
        job: which one.
        file: what the recipe will be called, for the line that says how to run it.

    Raises:
        RecipeError: there is no such job.
    """
    if job not in RECIPES:
        raise RecipeError(f"no job '{job}'{did_you_mean(job, RECIPES)}", fix=f"known: {', '.join(RECIPES)}")
    lines = [_HEAD.format(title=(RECIPES[job].__doc__ or job).strip().splitlines()[0], file=file)]
    for name, field in RECIPES[job].model_fields.items():
        key = _key(name, field, name, RECIPES[job].written)
        lines += ["", *key] if lines[-1].startswith(" ") and key[0] else key
    return "\n".join(lines) + "\n"


def _key(name: str, field: FieldInfo, path: str, written: dict[str, str]) -> list[str]:
    """One key: as it is written here, as a block with its keys, or as a comment with its default; blocks have a line of space before."""
    depth = path.count(".")
    block = _block(field, begun=any(known.startswith(f"{path}.") for known in written))
    if path in written:
        space = [""] if "\n" in written[path] and depth == 0 else []
        inner = _model_keys(path) if path == "teachers" else []
        return [*space, *_described(written[path], field.description if "\n" not in written[path] else None, depth), *inner]
    if block is None:
        return _described(f"{'  ' * depth}# {name}: {_default(name, field)}", field.description, depth)
    lines = (
        ["", *_described(f"{name}:", field.description, 0)]
        if depth == 0
        else _described(f"{'  ' * depth}{name}:", field.description, depth)
    )
    for inner_name, inner_field in block.model_fields.items():
        lines += _key(inner_name, inner_field, f"{path}.{inner_name}", written)
    return lines


def _model_keys(path: str) -> list[str]:
    """A model's keys beside its source, as comments."""
    return [line for name, field in ModelBlock.model_fields.items() if name != "source" for line in _key(name, field, f"{path}.{name}", {})]


def _described(line: str, description: str | None, depth: int) -> list[str]:
    """The line with its description beside it, or above where both together are too long."""
    if not description:
        return [line]
    beside = f"{line:<36}  # {description}"
    if len(beside) <= WIDTH:
        return [beside]
    indent = "  " * depth + "#   "  # three spaces, so that nobody takes it for a key to uncomment
    return [*textwrap.wrap(description, WIDTH, initial_indent=indent, subsequent_indent=indent), line]


def _block(field: FieldInfo, begun: bool) -> type[BaseModel] | None:
    """The block that a key holds; None for one that is null by default, whose keys would switch it on, unless one of them is written."""
    if field.default is None and not begun:
        return None
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, Block):
            return kind
    return None


def _default(name: str, field: FieldInfo) -> str:
    default: Any = field.default
    if name in ("optimizer", "schedule"):
        default = getattr(TrainBlock(), name)  # with the method's own defaults
    return yaml.dump(default, Dumper=Dumper, default_flow_style=True, width=1_000, sort_keys=False).removesuffix("\n").removesuffix("\n...")
