"""Weights of linear layers in 8-bit integers by torchao, computed in float32, in a program of torch.export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Le

from transfuse.core.shipping import ExportRequest, Written
from transfuse.core.types import Model
from transfuse.export._beside import STEM
from transfuse.export._graph import quiet
from transfuse.export._torchao import PACKAGES, rehearse, write_quantised
from transfuse.models.exported import open_exported


class TorchaoWeightOnly:
    """student.pt2 and student.json; opening the file takes torch and torchao, and trust.

    Weights have a scale per output channel.

    Args:
        least_agreement: share of the samples on which it has to decide as the network does; of the variance, for regression.
        most_loss: how much of the task's first metric it may lose; of an error such as rmse, by which share it may grow.
    """

    packages: tuple[str, ...] = PACKAGES

    def __init__(self, least_agreement: Annotated[float, Ge(0), Le(1)] = 0.98, most_loss: Annotated[float, Ge(0)] = 0.01):
        self.least_agreement, self.most_loss = least_agreement, most_loss

    @property
    def marks(self) -> tuple[float, float] | None:
        return self.least_agreement, self.most_loss

    def rehearse(self, request: ExportRequest) -> None:
        rehearse(request)

    def write(self, request: ExportRequest) -> Written:
        """Quantises and traces the network.

        Raises:
            ExportError: it has no linear layer, or can't be traced.
        """
        with quiet():
            from torchao.quantization import Int8WeightOnlyConfig  # pyright: ignore[reportMissingImports]
        return write_quantised(request, Int8WeightOnlyConfig())

    def open(self, folder: Path) -> Model:
        return open_exported(folder / f"{STEM}.pt2", trusted=True)  # what was written here a moment ago
