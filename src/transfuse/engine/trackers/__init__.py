"""Where else a training's figures go: one file = one experiment tracker, off unless a recipe says `track: [NAME]`.

metrics.jsonl stays the truth; a tracker is told the same lines. A tracker is a class `Tracker(folder, name)` with `log(series, values,
step)` and `close()`, and PACKAGE and EXTRA say what it needs; its file imports that package where it is used.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from transfuse.core.registry import Registry
from transfuse.errors import MissingExtra, RecipeError

registry = Registry("transfuse.engine.trackers", "tracker", RecipeError, nested=False)


class Tracker(Protocol):
    """What a tracker's file defines."""

    def log(self, series: str, values: Mapping[str, float], step: int) -> None:
        """Figures of one training ("student", "control") at a step."""
        ...

    def close(self) -> None:
        """Nothing more will come."""
        ...


def names() -> list[str]:
    """All trackers, plug-ins included."""
    return registry.names()


def require(name: str) -> None:
    """
    Raises:
        RecipeError: there is no such tracker.
        MissingExtra: its package is not installed.
    """
    module = registry.module(name)
    if importlib.util.find_spec(module.PACKAGE) is None:
        raise MissingExtra(module.PACKAGE, module.EXTRA, f"track: [{name}]")


def open_tracker(name: str, folder: Path) -> Tracker:
    """Opens a tracker for the run in this folder."""
    return registry.module(name).Tracker(folder, folder.name)
