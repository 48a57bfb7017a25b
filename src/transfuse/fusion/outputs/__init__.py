"""Rules on outputs: one file = one pure function on what the sources say, one thin class and one CARD.

`get("weighted")` gives the class, `names()` lists all. A rule is made in three steps: its constructor takes plain values, `fit` looks at
labelled outputs, `fuse` makes one answer of several. See `fusion.output_rule.OutputRule`.
"""

from typing import Any

from transfuse.core.card import Card
from transfuse.core.registry import Registry
from transfuse.errors import RecipeError

registry = Registry("transfuse.fusion.outputs", "rule on outputs", RecipeError)


def get(name: str) -> Any:
    """The rule's class by its file's name.

    Raises:
        RecipeError: no such rule; names the nearest.
    """
    return registry.get(name)


def names() -> list[str]:
    """All rules on outputs, plug-ins included."""
    return registry.names()


def card(name: str) -> Card:
    """The rule's CARD; `needs` holds "labels" where the rule itself has something to fit."""
    return registry.module(name).CARD
