"""Maximum mean discrepancy: source and target features have the same distribution, as far as a sum of Gaussian kernels can tell."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.ranks import gather_rows
from transfuse.core.types import Step
from transfuse.objectives._vectors import last_tap, vectors
from transfuse.objectives.domains._kernels import kernel_of, mean_square_distance, multi_kernel
from transfuse.objectives.domains._marks import all_domains, shares, without_own
from transfuse.objectives.domains._neighbours import neighbours

Estimator = Literal["unbiased", "biased", "linear"]
WIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)
CARD = Card(
    title="Multi-kernel maximum mean discrepancy (DAN)",
    paper="Long, Cao, Wang, Jordan, 2015, ICML",
    link="https://arxiv.org/abs/1502.02791",
    level="batch",
    needs=("student.features", "domains"),
    paper_weight=1.0,
    tasks=("classification", "multilabel", "regression"),
    cost="five kernels over all pairs of the batch; over twice as many pairs as samples with estimator: linear",
)


def mmd_loss(
    student_features: Float[Tensor, "batch *inner"],
    domains: Int[Tensor, "batch"],
    estimator: Estimator = "unbiased",
    mean_square: Float[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    """mean k(s, s') + mean k(t, t') - 2 mean k(s, t) over source samples s (domain 0) and target samples t (domain 1), in any numbers.

    k(x, y) = sum_a exp(-|x - y|^2 / (2 a m)), a = 2^-3 .. 2^1, m the mean of |x - y|^2 over all pairs of the batch, without gradient,
    unless it is given as mean_square. unbiased leaves a sample's kernel with itself out of the first two means (and can be negative);
    biased keeps it, and is 0 where both samples are the same. A batch without two samples (biased: one) of each domain adds 0. Maps are
    averaged over space.

    linear is the linear-time estimate: the mean over i of k(s_i, s_i+1) + k(t_i, t_i+1) - k(s_i, t_i+1) - k(s_i+1, t_i), i up to the
    smaller number of samples, whose last is followed by its first, in the order of the batch. It is unbiased too, and has more variance, as
    each sample meets two others instead of all. The paper pairs each sample with one other (equation 4, i odd); the neighbours in a ring
    are those of the authors' code in PyTorch (github.com/thuml/Xlearn). The default uses all pairs: at the sizes of batches its cost is
    nothing beside a network's.

    Raises:
        ValueError: the batch is too small for that.
    """
    rows = vectors(student_features)
    if estimator == "linear":
        mean_square = mean_square_distance(rows) if mean_square is None else mean_square
        shares(domains, rows, least=2)  # refuses what can't hold two of each
        first, second, weights = neighbours(domains, rows)
        return weights @ kernel_of((rows[first] - rows[second]).square().sum(1), WIDTHS, mean_square)
    source, target = shares(domains, rows, least=2 if estimator == "unbiased" else 1)
    kernels = multi_kernel(rows, WIDTHS, mean_square)
    return discrepancy(kernels, source, target, estimator)


def discrepancy(
    kernels: Float[Tensor, "batch batch"], source: Float[Tensor, "batch"], target: Float[Tensor, "batch"], estimator: Estimator
) -> Float[Tensor, ""]:
    """The estimate from a kernel matrix and the weights of both domains' samples."""
    if estimator == "biased":
        gap = source - target
        return gap @ kernels @ gap
    others = kernels * (1 - torch.eye(len(kernels), dtype=kernels.dtype, device=kernels.device))
    within = [share @ others @ share * without_own((share > 0).to(share.dtype).sum()) for share in (source, target)]
    return within[0] + within[1] - 2 * source @ kernels @ target


class MMD(nn.Module):
    """Discrepancy of the deepest tapped feature between the domains, within the batch of all processes.

    Args:
        estimator: unbiased; biased (never negative); linear, from neighbours in the batch instead of all pairs.
    """

    def __init__(self, estimator: Estimator = "unbiased"):
        super().__init__()
        self.estimator: Estimator = estimator

    def forward(self, step: Step) -> Tensor:
        return mmd_loss(gather_rows(vectors(last_tap(step.student, "student"))), all_domains(step), self.estimator)
