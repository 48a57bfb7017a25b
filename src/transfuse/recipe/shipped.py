"""The recipes that come with transfuse, by name."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable

from transfuse.core.registry import did_you_mean
from transfuse.errors import RecipeError


def names() -> list[str]:
    """All shipped recipes."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _folder().iterdir() if entry.name.endswith(".yaml"))


def text(name: str) -> str:
    """A shipped recipe's YAML.

    Raises:
        RecipeError: there is none of that name.
    """
    name = name.removesuffix(".yaml")
    if name not in names():
        raise RecipeError(f"no shipped recipe '{name}'{did_you_mean(name, names())}", fix=f"known: {', '.join(names())}")
    return (_folder() / f"{name}.yaml").read_text(encoding="utf-8")


def summaries() -> dict[str, str]:
    """Name -> the comment in the recipe's first line."""
    return {name: text(name).splitlines()[0].lstrip("# ").strip() for name in names()}


def _folder() -> Traversable:
    return resources.files("transfuse.recipe") / "library"
