"""Probabilistic knowledge transfer: who is near to whom, as a distribution over the other samples."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.types import Step
from transfuse.objectives._vectors import unit, vectors
from transfuse.objectives.relations._batch import all_vectors, require_samples

Form = Literal["code", "paper"]
CARD = Card(
    title="Probabilistic knowledge transfer (PKT)",
    paper="Passalis, Tefas, 2018, ECCV",
    link="https://arxiv.org/abs/1803.10837",
    level="batch",
    needs=("teacher.features",),
    paper_weight=30000.0,
    tasks=("classification", "multilabel", "regression"),
    cost="one feature of the teacher per sample; two products [batch, width] x [width, batch]",
)
EPSILON = 1e-7  # as in the authors' code


def pkt_loss(
    student_features: Float[Tensor, "batch *student"], teacher_features: Float[Tensor, "batch *teacher"], form: Form = "code"
) -> Float[Tensor, ""]:
    """mean_ij P_ij log((P_ij + e) / (Q_ij + e)), with P the teacher's and Q the student's row-normalised (cos(f_i, f_j) + 1) / 2.

    e = 1e-7. The authors' code counts a sample among its own neighbours; the paper's conditional probabilities leave j = i out. The
    default is the code's, with which the weight 30000 and all published comparisons were made. Maps are averaged over space.

    Raises:
        ValueError: too few samples: with one (code) or two (paper) every probability is 1.
    """
    least = 2 if form == "code" else 3
    require_samples(student_features, least, "with fewer than this form needs every probability is 1")
    p, q = (_neighbours(vectors(features), form) for features in (teacher_features.detach(), student_features))
    return (p * torch.log((p + EPSILON) / (q + EPSILON))).mean()


def _neighbours(rows: Float[Tensor, "batch width"], form: Form) -> Float[Tensor, "batch batch"]:
    rows = unit(rows)
    kernel = ((rows @ rows.T + 1) / 2).clamp(min=0)  # rounding can pass -1
    if form == "paper":
        kernel = kernel * (1 - torch.eye(len(rows), dtype=rows.dtype, device=rows.device))
    total = kernel.sum(1, keepdim=True)
    return kernel / torch.where(total > 0, total, 1.0)


class PKT(nn.Module):
    """Neighbourhoods within the batch of all processes, on the deepest tapped feature of student and teacher.

    Args:
        form: code counts a sample as its own neighbour, paper doesn't.
    """

    def __init__(self, form: Form = "code"):
        super().__init__()
        self.form: Form = form

    def forward(self, step: Step) -> Tensor:
        return pkt_loss(*all_vectors(step), self.form)
