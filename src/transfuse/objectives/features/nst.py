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
    cost="one product of channels by channels (or positions by positions, whichever is smaller) per model; the teacher's features on disk",
)

Kernel = Literal["polynomial", "linear", "gaussian"]
Rows = Float[Tensor, "batch _ positions"]


def nst_loss(
    student_features: Float[Tensor, "batch *student_shape"],
    teacher_features: Float[Tensor, "batch *teacher_shape"],
    kernel: Kernel = "polynomial",
    mean_square: Float[Tensor, "batch"] | None = None,
) -> Float[Tensor, "batch"]:
    """Squared maximum mean discrepancy between the sets of channels of two maps, per sample.

    x_i: the student's i-th channel over all positions, divided by its length; y_j: the teacher's. Any numbers of channels.
    MMD^2 = mean_ij k(x_i, x_j) + mean_ij k(y_i, y_j) - 2 mean_ij k(x_i, y_j), k(x, y) = (x . y)^2 (polynomial, d = 2, c = 0), x . y
    (linear) or exp(-|x - y|^2 / (2 m)) (gaussian), m the mean of |x_i - y_j|^2 over the sample's pairs, without gradient, unless it is
    given as mean_square.

    The sums of squared products are squared Frobenius norms of Gram matrices, so nothing of size channels x channels x positions is made:
    with few positions MMD^2 = ||X^T X / C_s - Y^T Y / C_t||^2. The teacher's own term is kept (it has no gradient), so that the value is 0
    at equality. The paper finds the Gaussian kernel weaker than the polynomial one, which is the default.

    Raises:
        ModelError: a feature has no positions.
    """
    student, teacher = same_size(student_features, teacher_features)
    x, y = unit_length(channel_rows(student)), unit_length(channel_rows(teacher))
    if kernel == "linear":
        return (x.mean(1) - y.mean(1)).square().sum(1)
    if kernel == "gaussian":
        return _gaussian(x, y, mean_square)
    inner, outer, positions = x.shape[1], y.shape[1], x.shape[2]
    if 2 * positions**2 < inner**2 + outer**2 + inner * outer:
        return (_products(x.mT) / inner - _products(y.mT) / outer).square().sum((1, 2))
    mixed = torch.bmm(x, y.mT).square().mean((1, 2))
    return _products(x).square().mean((1, 2)) + _products(y).square().mean((1, 2)) - 2 * mixed


def _products(rows: Float[Tensor, "batch rows columns"]) -> Float[Tensor, "batch rows rows"]:
    return torch.bmm(rows, rows.mT)


def _gaussian(x: Rows, y: Rows, mean_square: Tensor | None) -> Float[Tensor, "batch"]:
    between = _square_distances(x, y)
    mean_square = between.detach().mean((1, 2)) if mean_square is None else mean_square
    width = 2 * torch.where(mean_square > 0, mean_square, 1.0)[:, None, None]
    within, among = (torch.exp(-_square_distances(rows, rows) / width).mean((1, 2)) for rows in (x, y))
    return within + among - 2 * torch.exp(-between / width).mean((1, 2))


def _square_distances(x: Rows, y: Rows) -> Float[Tensor, "batch inner outer"]:
    lengths = x.square().sum(2)[:, :, None] + y.square().sum(2)[:, None, :]
    return (lengths - 2 * torch.bmm(x, y.mT)).clamp(min=0)


class NST(nn.Module):
    """Distribution of one teacher's channels, summed over pairs of taps.

    Args:
        kernel: polynomial (the paper's best), linear or gaussian.
    """

    def __init__(self, kernel: Kernel = "polynomial"):
        super().__init__()
        self.kernel: Kernel = kernel

    def forward(self, step: Step) -> Tensor:
        return total(lambda student, teacher: nst_loss(student, teacher, self.kernel), pairs(step))
