"""trackio: a local dashboard with W&B's manner; the project is $TRACKIO_PROJECT, else transfuse."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

PACKAGE, EXTRA = "trackio", "trackio"


class Tracker:
    """Logs figures NAME of a training as SERIES/NAME, with the training's own step beside them.

    Args:
        folder: the run's.
        name: of the run.
    """

    def __init__(self, folder: Path, name: str):
        import trackio

        self._trackio = trackio
        trackio.init(project=os.environ.get("TRACKIO_PROJECT", "transfuse"), name=name, config={"folder": str(folder)})

    def log(self, series: str, values: Mapping[str, float], step: int) -> None:
        self._trackio.log({f"{series}/step": step, **{f"{series}/{key}": value for key, value in values.items()}})

    def close(self) -> None:
        self._trackio.finish()
