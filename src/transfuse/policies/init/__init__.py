"""Initialisations: one file = one way to begin a network with what another one has learnt.

`get("select")` gives the class, `names()` lists all. An initialisation is called with a source, a target and what is known of them
(`_scene.Scene`), changes the target's weights in place and tells what it did, tensor by tensor (`_scene.Moved`).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from transfuse.core.registry import Registry
from transfuse.errors import RecipeError

registry = Registry("transfuse.policies.init", "initialisation", RecipeError, nested=False)


def get(name: str) -> Any:
    """The initialisation's class by its file's name.

    Raises:
        RecipeError: no such initialisation; names the nearest.
    """
    return registry.get(name)


def names() -> list[str]:
    """All initialisations, plug-ins included."""
    return registry.names()


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
