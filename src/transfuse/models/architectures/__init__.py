"""Architectures that transfuse brings itself: one file = one family, whose VARIANTS give names to settings of its constructor."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from transfuse.core.registry import Registry
from transfuse.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

registry = Registry("transfuse.models.architectures", "architecture", ModelError)


@dataclass(frozen=True)
class Variant:
    """One name of a family.

    Args:
        constructor: the nn.Module; takes `outputs: int` and `input_shape: tuple[int, ...]`, and plain options with types and defaults.
        summary: one line for listings.
        fixed: constructor arguments that the name decides.
        defaults: constructor arguments that the name suggests and `options` may change.
        input_shape: what is assumed where neither data nor options say it; None means that it has to be said.
        smallest: side in pixels of the smallest picture that makes sense; 0 for architectures that take columns too.
    """

    constructor: type[nn.Module]
    summary: str
    fixed: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    input_shape: tuple[int, ...] | None = (3, 32, 32)
    smallest: int = 4


@cache
def variants() -> dict[str, Variant]:
    """Every name of every family, plug-ins included."""
    found: dict[str, Variant] = {}
    for family in registry.names():
        found.update(registry.module(family).VARIANTS)
    return found
