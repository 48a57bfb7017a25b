"""A job's trackers: what is written to metrics.jsonl is told to them too, and one that fails costs the job nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transfuse.core import ranks
from transfuse.engine import trackers
from transfuse.engine.track import Jsonl


class Trackers:
    """The trackers of one run; opened when there is something to tell, on the first process only.

    Args:
        names: as the recipe has them.
        folder: the run's.
        say: told when one fails and is left out.
    """

    def __init__(self, names: Sequence[str], folder: Path, say: Callable[[str], None]):
        self._names, self._folder, self._say = list(names) if ranks.rank() == 0 else [], folder, say
        self._open: dict[str, trackers.Tracker] = {}

    def log(self, series: str, values: Mapping[str, float], step: int) -> None:
        """Tells all of them; without a run folder's names this does nothing."""
        for name in list(self._names):
            try:
                if name not in self._open:
                    self._open[name] = trackers.open_tracker(name, self._folder)
                self._open[name].log(series, values, step)
            except Exception as error:  # whatever it is (a server that is away, a full disk of theirs), training goes on
                self._names.remove(name)
                self._say(f"track: {name} failed and is left out from here: {' '.join(str(error).split())[:200]}")

    def close(self) -> None:
        """Ends what was opened."""
        for name, tracker in self._open.items():
            try:
                tracker.close()
            except Exception as error:
                self._say(f"track: {name} could not be ended: {' '.join(str(error).split())[:200]}")
        self._open = {}


class Tracked(Jsonl):
    """metrics.jsonl whose lines go to trackers, too. After a resume trackers see the steps since the last checkpoint a second time.

    Args:
        path, run, stage: as for `Jsonl`.
        told: the run's trackers.
    """

    def __init__(self, path: Path | None, run: str, stage: str, told: Trackers):
        super().__init__(path, run, stage)
        self.told = told

    def write(self, kind: str, values: dict[str, Any]) -> None:
        super().write(kind, values)
        series = f"{self.run}.{self.stage}" if self.stage else self.run
        self.told.log(series, flat(kind, values), int(values.get("step", 0)))


def flat(kind: str, values: Mapping[str, Any]) -> dict[str, float]:
    """A line's finite numbers by name: {"loss": 1, "terms": {"kd": 2}} -> {"train/loss": 1, "train/kd": 2}."""
    found: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(kind, value)
        elif key != "step" and isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            found[f"{kind}/{key}"] = float(value)
    return found


def tell_summary(told: Trackers, summary: Mapping[str, Any]) -> None:
    """The test split's figures of every model, as step 0 of a series of their own."""
    for model, block in {**(summary.get("models") or {}), **(summary.get("teachers") or {})}.items():
        values = {name: value for name, value in (block.get("metrics") or {}).items() if isinstance(value, (int, float))}
        told.log(model, flat("test", values), 0)
