"""TensorBoard: event files in the run folder, for `tensorboard --logdir RUN/tensorboard`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

PACKAGE, EXTRA = "tensorboard", "tensorboard"


class Tracker:
    """Writes scalars NAME of a training as SERIES/NAME.

    Args:
        folder: the run's.
        name: of the run.
    """

    def __init__(self, folder: Path, name: str):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(log_dir=str(folder / "tensorboard"))

    def log(self, series: str, values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            self._writer.add_scalar(f"{series}/{key}", value, step)

    def close(self) -> None:
        self._writer.close()
