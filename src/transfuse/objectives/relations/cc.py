"""Correlation congruence: a kernel between samples is the same for student and teacher."""

import math
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.types import Step
from transfuse.objectives._vectors import unit, vectors
from transfuse.objectives.relations._batch import all_vectors, require_samples

Kernel = Literal["gaussian", "bilinear"]
CARD = Card(
    title="Correlation congruence (CC)",
    paper="Peng et al., 2019, ICCV",
    link="https://arxiv.org/abs/1904.01802",
    level="batch",
    needs=("teacher.features",),
    paper_weight=100.0,
    tasks=("classification", "multilabel", "regression"),
    cost="one feature of the teacher per sample; two products [batch, width] x [width, batch]",
)


def cc_loss(
    student_features: Float[Tensor, "batch *student"],
    teacher_features: Float[Tensor, "batch *teacher"],
    kernel: Kernel = "gaussian",
    gamma: float = 0.4,
    order: int | None = 2,
) -> Float[Tensor, ""]:
    """|| K_s - K_t ||_F^2 / batch^2, with K_ij a kernel between the unit vectors f_i and f_j of one model.

    Gaussian: exp(-gamma |f_i - f_j|^2) = exp(-2 gamma) sum_p (2 gamma)^p / p! (f_i . f_j)^p, cut off after p = order as in the paper, or
    whole where order is None. Bilinear: f_i . f_j. Maps are averaged over space. Kernels compare samples within a model, so widths may
    differ and nothing is embedded: what circulates under this name, a product of absolute differences of two trained embeddings, is
    another loss and has a trivial minimum. `paper_weight` is that of public implementations of this form on CIFAR.

    Raises:
        ValueError: a single sample, whose kernel with itself is constant; gamma not positive; order below 1.
    """
    require_samples(student_features, 2, "correlations between samples need at least two")
    if gamma <= 0 or (order is not None and order < 1):
        raise ValueError(f"gamma is {gamma} and order {order}; gamma must be positive, and order at least 1, or None for the whole series")
    student, teacher = (_kernel(vectors(features), kernel, gamma, order) for features in (student_features, teacher_features.detach()))
    return (student - teacher).square().mean()


def _kernel(rows: Float[Tensor, "batch width"], kernel: Kernel, gamma: float, order: int | None) -> Float[Tensor, "batch batch"]:
    rows = unit(rows)
    products = rows @ rows.T
    if kernel == "bilinear":
        return products
    if order is None:
        return torch.exp(2 * gamma * (products - 1))
    terms = [(2 * gamma) ** p / math.factorial(p) * products**p for p in range(1, order + 1)]
    return math.exp(-2 * gamma) * (1 + sum(terms, torch.zeros_like(products)))


class CC(nn.Module):
    """Kernels within the batch of all processes, on the deepest tapped feature of student and teacher.

    Args:
        kernel: gaussian, the paper's best, or bilinear.
        gamma: of the gaussian kernel.
        order: where the gaussian's Taylor series ends; null computes the kernel itself.
    """

    def __init__(self, kernel: Kernel = "gaussian", gamma: Annotated[float, Gt(0)] = 0.4, order: Annotated[int, Ge(1)] | None = 2):
        super().__init__()
        self.kernel: Kernel = kernel
        self.gamma, self.order = gamma, order

    def forward(self, step: Step) -> Tensor:
        return cc_loss(*all_vectors(step), self.kernel, self.gamma, self.order)
