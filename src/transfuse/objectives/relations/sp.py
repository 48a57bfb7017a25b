"""Similarity-preserving: samples that activate the teacher alike activate the student alike."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32
from transfuse.core.types import Step
from transfuse.objectives._vectors import unit
from transfuse.objectives.relations._batch import all_features, require_samples

CARD = Card(
    title="Similarity-preserving distillation (SP)",
    paper="Tung, Mori, 2019, ICCV",
    link="https://arxiv.org/abs/1907.09682",
    level="batch",
    needs=("teacher.features",),
    paper_weight=3000.0,
    tasks=("classification", "multilabel", "regression"),
    cost="one feature of the teacher per sample; two products [batch, width] x [width, batch]",
)


def sp_loss(student_features: Float[Tensor, "batch *student"], teacher_features: Float[Tensor, "batch *teacher"]) -> Float[Tensor, ""]:
    """|| rows(G_s) - rows(G_t) ||_F^2 / batch^2, with G = F F^T of the flattened features F and every row divided by its L2 norm.

    Features may differ in channels and in spatial size: only the samples are compared, so there is no bridge.

    Raises:
        ValueError: a single sample, whose similarity to itself is always 1.
    """
    require_samples(student_features, 2, "similarities need at least two")
    gap = _similarities(student_features) - _similarities(teacher_features.detach())
    return gap.square().mean()


def _similarities(features: Float[Tensor, "batch *inner"]) -> Float[Tensor, "batch batch"]:
    rows = at_least_fp32(features).flatten(1)
    largest = rows.detach().abs().amax()  # a common factor doesn't matter, and keeps squares of huge features finite
    rows = rows / torch.where(largest > 0, largest, 1.0)
    return unit(rows @ rows.T)


class SP(nn.Module):
    """Similarities within the batch of all processes, on the deepest tapped feature of student and teacher."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, step: Step) -> Tensor:
        return sp_loss(*all_features(step))
