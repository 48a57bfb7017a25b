"""Mean squared error of standardised regression targets, some of which may be unknown."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.types import Step
from transfuse.objectives.labels._targets import mean_over_known

CARD = Card(
    title="Mean squared error",
    paper="least squares: Legendre, 1805; its history: Stigler, 1981, Annals of Statistics",
    link="https://doi.org/10.1214/aos/1176345451",
    level="sample",
    needs=("labels",),
    paper_weight=1.0,
    tasks=("regression",),
    cost="none",
)


def mse_loss(student_logits: Float[Tensor, "batch targets"], labels: Float[Tensor, "batch targets"]) -> Float[Tensor, "batch"]:
    """mean_k (prediction_k - target_k)^2 per sample, over its known targets, in units of the targets' standard deviations squared.

    Unknown targets (NaN) add nothing; a sample with none gives 0.

    Raises:
        ValueError: predictions and targets differ in shape.
    """
    return mean_over_known(torch.square, student_logits, labels)


class MSE(nn.Module):
    """Mean squared error with the targets."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, step: Step) -> Tensor:
        return mse_loss(step.student.logits, step.batch.labels)
