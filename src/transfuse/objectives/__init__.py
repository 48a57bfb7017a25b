"""Objectives: one file = one pure function, one thin nn.Module and one CARD, in folders by what carries the knowledge.

`get("kd")` gives the class, `names()` lists all; `kd_loss` and `KD` are found lazily, without naming their folder.
"""

from typing import Any

from transfuse.core.card import Card
from transfuse.core.registry import Registry
from transfuse.errors import RecipeError

registry = Registry("transfuse.objectives", "objective", RecipeError, listed="`transfuse ls objectives`")


def get(name: str) -> Any:
    """The objective's class by its file's name.

    Raises:
        RecipeError: no such objective; names the nearest.
    """
    return registry.get(name)


def names() -> list[str]:
    """All objectives, plug-ins included."""
    return registry.names()


def card(name: str) -> Card:
    """The objective's CARD."""
    return registry.module(name).CARD


def __getattr__(attribute: str) -> Any:
    if attribute.startswith("_"):
        raise AttributeError(attribute)
    return registry.attribute(attribute)
