"""Correlation instead of equality: the student may differ from its teacher by scale and shift, per sample and per class."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import log_softmax_at
from transfuse.core.ranks import gather_rows
from transfuse.core.types import Step
from transfuse.objectives.outputs._divergence import require_classes, require_same_outputs, require_temperature

CARD = Card(
    title="Distillation from a stronger teacher (DIST)",
    paper="Huang, You, Wang, Qian, Xu, 2022, NeurIPS",
    link="https://arxiv.org/abs/2205.10536",
    level="batch",
    needs=("teacher.logits.dense",),
    paper_weight=2.0,
    tasks=("classification",),
    cost="the teacher's logits, once per sample and view when cached",
)
EVEN = 1e-3  # spread of a row or column, as a share of its length, below which it has none


def dist_loss(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    inter: float = 1.0,
    intra: float = 1.0,
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """T^2 * [inter (1 - mean_i rho(p_i, q_i)) + intra (1 - mean_c rho(p_:c, q_:c))], rho Pearson's correlation.

    p and q are the teacher's and the student's probabilities at temperature T, [batch, classes]: the first mean runs over samples (rows),
    the second over classes (columns). A row or column without spread counts as uncorrelated (the product of standard deviations is
    bounded by 1e-8; the authors' code adds it). So does one that spreads over less than 0.001 of its length, with a gradient of ordinary
    size: that of a correlation grows as the spread shrinks, and at a head that begins with zeros it would be millions. The paper weighs
    both parts by 2; that is `paper_weight`, as in the authors' code.

    Raises:
        ValueError: two classes with inter > 0, or one sample with intra > 0: the correlation of two numbers is always 1 or -1, and that of
            one number is undefined; temperature not positive; other numbers of outputs.
    """
    require_temperature(temperature)
    require_same_outputs(student_logits, teacher_logits)
    require_classes(student_logits)
    samples, classes = student_logits.shape
    if inter > 0 and classes == 2:
        raise ValueError("with two classes the correlation within a sample is always 1 or -1 and teaches nothing; set inter: 0")
    if intra > 0 and samples == 1:
        raise ValueError("with one sample there is no correlation over samples; use a larger batch or set intra: 0")
    p, q = log_softmax_at(teacher_logits.detach(), temperature).exp(), log_softmax_at(student_logits, temperature).exp()
    value = inter * (1 - _pearson(p, q).mean()) + intra * (1 - _pearson(p.T, q.T).mean())
    return value * temperature**2


def _pearson(one: Float[Tensor, "rows columns"], other: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows"]:
    (one, own), (other, others) = _centred(one), _centred(other)
    return (one * other).sum(1) / (own * others).clamp(min=1e-8)


def _centred(values: Float[Tensor, "rows columns"]) -> tuple[Float[Tensor, "rows columns"], Float[Tensor, "rows"]]:
    """Rows less their means, and what to divide them by: their length, or 1 where they are even."""
    centred = values - values.mean(1, keepdim=True)
    length = torch.linalg.vector_norm(centred, dim=1)
    return centred, torch.where(length > EVEN * torch.linalg.vector_norm(values.detach(), dim=1), length, 1.0)


class DIST(nn.Module):
    """Correlation with one teacher's predictions, over the batch of all processes.

    Args:
        inter: weight of the correlation between classes, within each sample; 0 leaves it out.
        intra: weight of the correlation between samples, within each class; 0 leaves it out.
        temperature: softens both predictions; 1 for ImageNet, 4 for CIFAR in the paper.
    """

    def __init__(
        self, inter: Annotated[float, Ge(0)] = 1.0, intra: Annotated[float, Ge(0)] = 1.0, temperature: Annotated[float, Gt(0)] = 1.0
    ):
        super().__init__()
        self.inter, self.intra, self.temperature = inter, intra, temperature

    def forward(self, step: Step) -> Tensor:
        student_logits, teacher_logits = gather_rows(step.student.logits), gather_rows(step.teacher.logits)
        return dist_loss(student_logits, teacher_logits, self.inter, self.intra, self.temperature)
