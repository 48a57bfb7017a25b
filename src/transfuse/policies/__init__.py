"""Policies: one file = one way to fine-tune a pretrained network: what is trained, when, and how fast.

`get("gradual")` gives the class, `names()` lists all. A policy is told the layer groups and answers with phases (`core.policy`); the one
training loop does the rest.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from transfuse.core.registry import Registry
from transfuse.errors import RecipeError

registry = Registry("transfuse.policies", "policy", RecipeError, nested=False)


def get(name: str) -> Any:
    """The policy's class by its file's name.

    Raises:
        RecipeError: no such policy; names the nearest.
    """
    return registry.get(name)


def names() -> list[str]:
    """All policies, plug-ins included."""
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
