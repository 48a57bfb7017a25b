"""Squared error near the target, absolute error far from it: regression that outliers don't rule."""

from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Gt
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.types import Step
from transfuse.objectives.labels._targets import mean_over_known

CARD = Card(
    title="Huber loss",
    paper="Huber, 1964, Annals of Mathematical Statistics",
    link="https://doi.org/10.1214/aoms/1177703732",
    level="sample",
    needs=("labels",),
    paper_weight=1.0,
    tasks=("regression",),
    cost="none",
)


def huber_loss(
    student_logits: Float[Tensor, "batch targets"], labels: Float[Tensor, "batch targets"], delta: float = 1.345
) -> Float[Tensor, "batch"]:
    """mean_k h(prediction_k - target_k) per sample over its known targets; h(e) = e^2 / 2 for |e| <= delta, else delta (|e| - delta / 2).

    delta is in standard deviations of the targets; 1.345 loses 5 % efficiency on normal errors. Unknown targets (NaN) add nothing; a sample
    with none gives 0.

    Raises:
        ValueError: predictions and targets differ in shape.
    """
    return mean_over_known(partial(_huber, delta=delta), student_logits, labels)


def _huber(error: Tensor, delta: float) -> Tensor:
    return F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=delta)


class Huber(nn.Module):
    """Huber loss with the targets.

    Args:
        delta: error, in standard deviations of the target, beyond which it counts linearly.
    """

    def __init__(self, delta: Annotated[float, Gt(0)] = 1.345):
        super().__init__()
        self.delta = delta

    def forward(self, step: Step) -> Tensor:
        return huber_loss(step.student.logits, step.batch.labels, self.delta)
