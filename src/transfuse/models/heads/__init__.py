"""Heads: one file = one form of the layers that make a network's outputs, put in place of those that it has.

`put_head(network, kind, outputs, example)` finds the last layers of any network by a forward pass and replaces them; `get("mlp")` gives
a form's class, `names()` lists them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from transfuse.core.registry import Registry
from transfuse.errors import ModelError

registry = Registry("transfuse.models.heads", "head", ModelError, skip=("placing",), nested=False)


def get(name: str) -> Any:
    """A form's class by its file's name.

    Raises:
        ModelError: no such form; names the nearest.
    """
    return registry.get(name)


def names() -> list[str]:
    """All forms, plug-ins included."""
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
