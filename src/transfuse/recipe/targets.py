"""What a recipe knows of export targets: their names and constructors, found in their room without importing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from transfuse.core.registry import Registry
from transfuse.errors import RecipeError

registry = Registry("transfuse.export", "export target", RecipeError, skip=("verify",), nested=False)


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
