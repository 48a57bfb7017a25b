"""Relational distillation: distances between samples, and angles among three, are the same for student and teacher."""

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.types import Step
from transfuse.objectives._vectors import unit, vectors
from transfuse.objectives.relations._batch import all_vectors, require_samples

CARD = Card(
    title="Relational knowledge distillation (RKD)",
    paper="Park, Kim, Lu, Cho, 2019, CVPR",
    link="https://arxiv.org/abs/1904.05068",
    level="batch",
    needs=("teacher.features",),
    paper_weight=1.0,
    tasks=("classification", "multilabel", "regression"),
    cost="one feature of the teacher per sample; memory [batch, batch, width] and [batch, batch, batch] for both models",
)


def rkd_loss(
    student_features: Float[Tensor, "batch *student"],
    teacher_features: Float[Tensor, "batch *teacher"],
    distance: float = 25.0,
    angle: float = 50.0,
) -> Float[Tensor, ""]:
    """distance * mean_ij h(d_ij^s, d_ij^t) + angle * mean_jik h(a_jik^s, a_jik^t), h the smooth L1 (Huber with delta 1).

    d_ij = |f_i - f_j| / mean over i != j of |f_i - f_j|; a_jik = cosine of the angle at f_j between f_i and f_k. Means run over all pairs
    and triples, as in the authors' code (the paper writes sums); coinciding samples have direction 0. Features are not brought to unit
    length, as in the paper's classification experiments. Maps are averaged over space. The ratio 1:2 is the authors', the scale 25 that
    of the CIFAR comparisons.

    Raises:
        ValueError: fewer than three samples, among which the mean-normalised distance is constant and there are no angles; both weights 0.
    """
    require_samples(student_features, 3, "normalised distances and angles need at least three")
    if distance == 0 and angle == 0:
        raise ValueError("distance and angle are both 0, so nothing is compared; give one of them a weight")
    student, teacher = (_differences(vectors(features)) for features in (student_features, teacher_features.detach()))
    value = student.new_zeros(())
    if distance:
        value = value + distance * F.smooth_l1_loss(_distances(student), _distances(teacher))
    if angle:
        value = value + angle * F.smooth_l1_loss(_cosines(student), _cosines(teacher))
    return value


def _differences(rows: Float[Tensor, "batch width"]) -> Float[Tensor, "batch batch width"]:
    return rows[None, :, :] - rows[:, None, :]


def _distances(differences: Float[Tensor, "batch batch width"]) -> Float[Tensor, "batch batch"]:
    lengths = torch.linalg.vector_norm(differences, dim=-1)
    mean = lengths.sum() / (len(lengths) * (len(lengths) - 1))
    return lengths / torch.where(mean > 0, mean, 1.0)


def _cosines(differences: Float[Tensor, "batch batch width"]) -> Float[Tensor, "batch batch batch"]:
    directions = unit(differences)
    return torch.bmm(directions, directions.transpose(1, 2))


class RKD(nn.Module):
    """Distances and angles within the batch of all processes, on the deepest tapped feature of student and teacher.

    Args:
        distance: weight of the distances; 0 leaves them out.
        angle: weight of the angles; 0 leaves them out, and with them the memory [batch, batch, batch].
    """

    def __init__(self, distance: Annotated[float, Ge(0)] = 25.0, angle: Annotated[float, Ge(0)] = 50.0):
        super().__init__()
        self.distance, self.angle = distance, angle

    def forward(self, step: Step) -> Tensor:
        return rkd_loss(*all_vectors(step), self.distance, self.angle)
