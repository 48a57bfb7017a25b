"""Weights & Biases: one of its runs for each run folder; project and account are its own settings ($WANDB_PROJECT, $WANDB_MODE)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

PACKAGE, EXTRA = "wandb", "wandb"


class Tracker:
    """Logs figures NAME of a training as SERIES/NAME against SERIES/step: trainings of one run each begin at step 0.

    Args:
        folder: the run's.
        name: of the run.
    """

    def __init__(self, folder: Path, name: str):
        import wandb

        self._run = wandb.init(project=os.environ.get("WANDB_PROJECT", "transfuse"), name=name, dir=str(folder))
        self._series: set[str] = set()

    def log(self, series: str, values: Mapping[str, float], step: int) -> None:
        if series not in self._series:
            self._series.add(series)
            self._run.define_metric(f"{series}/*", step_metric=f"{series}/step")
        self._run.log({f"{series}/step": step, **{f"{series}/{key}": value for key, value in values.items()}})

    def close(self) -> None:
        self._run.finish()
