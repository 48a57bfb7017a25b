"""Heads that are fitted on a frozen network's features: one file = one head, found by its name.

A head's constructor takes its settings; those named in `tuned` may be lists, of which the folds choose. `fit(problem, setting)` gives a
float32 module from prepared features to logits (or standardised targets), which becomes the end of the network that is shipped.
`names()` lists them, `get(name)` is the class, `card(name)` says what it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from transfuse.core.registry import Registry
from transfuse.errors import RecipeError

if TYPE_CHECKING:
    from transfuse.probes.problem import HeadCard

registry = Registry("transfuse.probes", "head", RecipeError, skip=("problem", "preparation", "choice", "assembly"), nested=False)


def names() -> list[str]:
    """All heads, plug-ins included."""
    return registry.names()


def get(name: str) -> Any:
    """A head's class.

    Raises:
        RecipeError: there is no such head.
    """
    return registry.get(name)


def card(name: str) -> HeadCard:
    """A head's CARD.

    Raises:
        RecipeError: there is no such head.
    """
    return registry.module(name).CARD


class _Table(Mapping[str, Any]):
    """Name -> class; a file is imported when it is asked for."""

    def __getitem__(self, name: str) -> Any:
        if name not in registry.names():
            raise KeyError(name)
        return registry.get(name)

    def __iter__(self) -> Iterator[str]:
        return iter(registry.names())

    def __len__(self) -> int:
        return len(registry.names())


TABLE: Mapping[str, Any] = _Table()
