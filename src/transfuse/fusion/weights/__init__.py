"""Rules on weights: one file = one pure function on state dicts, one thin class and one CARD.

`get("ties")` gives the class, `names()` lists all. A function is imported from its file (`from transfuse.fusion.weights.ties import ties`),
which has the same name.
"""

from typing import Any

from transfuse.core.registry import Registry
from transfuse.errors import RecipeError
from transfuse.fusion.types import MergeCard

registry = Registry("transfuse.fusion.weights", "rule on weights", RecipeError)


def get(name: str) -> Any:
    """The rule's class by its file's name.

    Raises:
        RecipeError: no such rule; names the nearest.
    """
    return registry.get(name)


def names() -> list[str]:
    """All rules on weights, plug-ins included."""
    return registry.names()


def card(name: str) -> MergeCard:
    """The rule's CARD."""
    return registry.module(name).CARD
