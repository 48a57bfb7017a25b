"""Rules on weights: one file = one pure function on state dicts, one thin class and one CARD.

`get("ties")` gives the class, `names()` lists all. A function is imported from its file (`from transfuse.fusion.weights.ties import ties`),
which has the same name.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transfuse.core.registry import Registry
from transfuse.errors import RecipeError
from transfuse.fusion.types import Calibration, MergeCard, Parent

if TYPE_CHECKING:
    from torch import nn

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


def refuse(name: str, rule: Any, sources: Sequence[Parent], calibration: Calibration | None, base: "nn.Module | None" = None) -> None:
    """Says what speaks against a merge as far as the weights and a few inputs tell, before anybody waits for it.

    Args:
        name: the rule's.
        rule: made.
        sources: as for its `merge`.
        calibration: a few inputs are enough.
        base: the weights that training began with.

    Raises:
        ModelError: shapes or origins differ, weights are no numbers, layers don't correspond, or what the rule's card needs isn't there.
    """
    from transfuse.fusion.weights._assembly import refuse as refuse_sources

    refuse_sources(card(name), sources, calibration, base, getattr(rule, "check_origin", True))
