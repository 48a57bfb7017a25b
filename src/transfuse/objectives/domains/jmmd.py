"""Joint maximum mean discrepancy: features and predictions together have the same distribution in both domains."""

from typing import Annotated

import torch
from annotated_types import Gt
from jaxtyping import Float, Int
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import log_softmax_at
from transfuse.core.ranks import gather_rows
from transfuse.core.types import Step
from transfuse.objectives._vectors import last_tap, vectors
from transfuse.objectives.domains._kernels import kernel_of, mean_square_distance, multi_kernel, square_distances
from transfuse.objectives.domains._marks import all_domains, shares
from transfuse.objectives.domains._neighbours import neighbours
from transfuse.objectives.domains.mmd import WIDTHS, Estimator, discrepancy

CARD = Card(
    title="Joint maximum mean discrepancy (JAN)",
    paper="Long, Zhu, Wang, Jordan, 2017, ICML",
    link="https://arxiv.org/abs/1605.06636",
    level="batch",
    needs=("student.features", "domains"),
    paper_weight=1.0,
    tasks=("classification",),
    cost="six kernels over all pairs of the batch; over twice as many pairs as samples with estimator: linear",
)


def jmmd_loss(
    student_features: Float[Tensor, "batch *inner"],
    student_logits: Float[Tensor, "batch classes"],
    domains: Int[Tensor, "batch"],
    prediction_width: float = 0.92,
    estimator: Estimator = "unbiased",
    mean_square: Float[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    """`mmd_loss` with the product of two kernels: that of the features, and exp(-|p - q|^2 / (2 w^2)) of the softmax predictions p, q.

    w = 0.92 as in the authors' code, which uses the linear-time estimate by default (estimator linear; see `mmd_loss`). The default here is
    unbiased, over all pairs: it has the same mean, less variance, doesn't depend on the batch's order, and costs next to nothing.

    Raises:
        ValueError: a single class, whose prediction is always 1; a batch too small for two samples of each domain (biased: one).
    """
    if student_logits.shape[-1] < 2:
        raise ValueError("a softmax over one logit is always 1 and can't tell domains apart; use mmd on the features alone")
    rows, predictions = vectors(student_features), log_softmax_at(student_logits).exp()
    if estimator == "linear":
        mean_square = mean_square_distance(rows) if mean_square is None else mean_square
        shares(domains, rows, least=2)  # refuses what can't hold two of each
        first, second, weights = neighbours(domains, rows)
        features, gaps = ((values[first] - values[second]).square().sum(1) for values in (rows, predictions))
        return weights @ (kernel_of(features, WIDTHS, mean_square) * _prediction_kernel(gaps, prediction_width))
    source, target = shares(domains, rows, least=2 if estimator == "unbiased" else 1)
    joint = multi_kernel(rows, WIDTHS, mean_square) * _prediction_kernel(square_distances(predictions), prediction_width)
    return discrepancy(joint, source, target, estimator)


def _prediction_kernel(distances: Float[Tensor, "*pairs"], width: float) -> Float[Tensor, "*pairs"]:
    return torch.exp(-distances / (2 * width**2))


class JMMD(nn.Module):
    """Joint discrepancy of the deepest tapped feature and the predictions, within the batch of all processes.

    Args:
        prediction_width: of the Gaussian kernel between predictions.
        estimator: unbiased; biased (never negative); linear, from neighbours in the batch instead of all pairs, the authors' default.
    """

    def __init__(self, prediction_width: Annotated[float, Gt(0)] = 0.92, estimator: Estimator = "unbiased"):
        super().__init__()
        self.prediction_width = prediction_width
        self.estimator: Estimator = estimator

    def forward(self, step: Step) -> Tensor:
        student_features, student_logits = gather_rows(vectors(last_tap(step.student, "student"))), gather_rows(step.student.logits)
        return jmmd_loss(student_features, student_logits, all_domains(step), self.prediction_width, self.estimator)
