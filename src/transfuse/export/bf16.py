"""Weights in bfloat16: half the bytes, and half the memory traffic where the processor computes in it."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le

from transfuse.export.safetensors import Safetensors


class Bf16(Safetensors):
    """student.safetensors in bfloat16 with student.json and network.py; network.py computes in bfloat16, `transfuse.load` in float32.

    Args:
        least_agreement: share of the samples on which it has to decide as the network does; of the variance, for regression.
        most_loss: how much of the task's first metric it may lose; of an error such as rmse, by which share it may grow.
    """

    dtype = "bfloat16"

    def __init__(self, least_agreement: Annotated[float, Ge(0), Le(1)] = 0.98, most_loss: Annotated[float, Ge(0)] = 0.01):
        self.least_agreement, self.most_loss = least_agreement, most_loss

    @property
    def marks(self) -> tuple[float, float] | None:
        return self.least_agreement, self.most_loss
