"""Neuron selectivity transfer: the student's channels are to be distributed like the teacher's, as patterns over positions."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.bridges import same_size
from transfuse.core.card import Card
from transfuse.core.types import Step
from transfuse.objectives.features._pairs import channel_rows, pairs, total, unit_length

CARD = Card(
    title="Neuron selectivity transfer (NST)",
    paper="Huang, Wang, 2017",
    link="https://arxiv.org/abs/1707.01219",
    level="sample",
    needs=("teacher.features",),
    paper_weight=50.0,
    tasks=("classification", "multilabel", "regression"),
    cost="one product of channels by channels (or positions by positions, whichever is smaller) per model; the teacher runs live",
)

Kernel = Literal["polynomial", "linear"]
Rows = Float[Tensor, "batch channels positions"]


def nst_loss(
    student_features: Float[Tensor, "batch *student_shape"],
    teacher_features: Float[Tensor, "batch *teacher_shape"],
    kernel: Kernel = "polynomial",
) -> Float[Tensor, "batch"]:
    """Squared maximum mean discrepancy between the sets of channels of two maps, per sample.

    x_i: the student's i-th channel over all positions, divided by its length; y_j: the teacher's. Any numbers of channels.
    MMD^2 = mean_ij k(x_i, x_j) + mean_ij k(y_i, y_j) - 2 mean_ij k(x_i, y_j), k(x, y) = (x . y)^2 (polynomial, d = 2, c = 0) or x . y.

    The sums of squared products are squared Frobenius norms of Gram matrices, so nothing of size channels x channels x positions is made:
    with few positions MMD^2 = ||X^T X / C_s - Y^T Y / C_t||^2. The teacher's own term is kept (it has no gradient), so that the value is 0
    at equality. The paper's Gaussian kernel, which it finds weaker, is left out.

    Raises:
        ModelError: a feature has no positions.
    """
    student, teacher = same_size(student_features, teacher_features)
    x, y = unit_length(channel_rows(student)), unit_length(channel_rows(teacher))
    if kernel == "linear":
        return (x.mean(1) - y.mean(1)).square().sum(1)
    inner, outer, positions = x.shape[1], y.shape[1], x.shape[2]
    if 2 * positions**2 < inner**2 + outer**2 + inner * outer:
        return (_products(x.mT) / inner - _products(y.mT) / outer).square().sum((1, 2))
    mixed = torch.bmm(x, y.mT).square().mean((1, 2))
    return _products(x).square().mean((1, 2)) + _products(y).square().mean((1, 2)) - 2 * mixed


def _products(rows: Float[Tensor, "batch rows columns"]) -> Float[Tensor, "batch rows rows"]:
    return torch.bmm(rows, rows.mT)


class NST(nn.Module):
    """Distribution of one teacher's channels, summed over pairs of taps.

    Args:
        kernel: polynomial (the paper's best) or linear.
    """

    def __init__(self, kernel: Kernel = "polynomial"):
        super().__init__()
        self.kernel: Kernel = kernel

    def forward(self, step: Step) -> Tensor:
        return total(lambda student, teacher: nst_loss(student, teacher, self.kernel), pairs(step))
