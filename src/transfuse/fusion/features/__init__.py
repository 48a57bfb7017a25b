"""Rules that fuse the features of several networks: one file = one nn.Module and one CARD.

A rule has plain constructor types. `build(dims)`, called once before the optimiser is made, sizes it by the width of each source's
features; `forward(features)` turns one [batch, dim_i] per source into [batch, dim], and `dim` says how wide that is. Where a rule weighs
its sources, `shares(features)` gives the weights, [batch, sources], with rows that sum to 1. `begin(heads)`, where a rule has it, sets its
start so that one linear layer on top says what the sources' own last layers say together.
"""

from typing import Any

from transfuse.core.card import Card
from transfuse.core.registry import Registry
from transfuse.errors import RecipeError

registry = Registry("transfuse.fusion.features", "feature fusion", RecipeError)


def get(name: str) -> Any:
    """The rule's class by its file's name.

    Raises:
        RecipeError: no such rule; names the nearest.
    """
    return registry.get(name)


def names() -> list[str]:
    """All rules, plug-ins included."""
    return registry.names()


def card(name: str) -> Card:
    """The rule's CARD."""
    return registry.module(name).CARD
