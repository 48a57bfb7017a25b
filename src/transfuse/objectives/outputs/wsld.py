"""Soft targets weighted per sample: more where the student is worse on the label than its teacher."""

from typing import Annotated

import torch
from annotated_types import Gt
from jaxtyping import Float, Int
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import kl_divergence, log_softmax_at
from transfuse.core.types import Step
from transfuse.objectives.outputs._target import log_target, require_split, where_labelled

CARD = Card(
    title="Weighted soft labels (WSLD)",
    paper="Zhou et al., 2021, ICLR",
    link="https://arxiv.org/abs/2102.00650",
    level="sample",
    needs=("hard_labels", "teacher.logits.dense"),
    paper_weight=2.5,
    tasks=("classification",),
    cost="the teacher's logits, once per sample and view when cached",
)


def wsld_loss(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, "batch"],
    temperature: float = 2.0,
) -> Float[Tensor, "batch"]:
    """(1 - exp(-CE_s / CE_t)) * T^2 * KL(p || q) per sample, in nats.

    CE_s and CE_t are the student's and the teacher's cross-entropy with the label at T = 1 (1e-7 is added to CE_t, as in the authors'
    code); the weight has no gradient. p and q are the predictions at temperature T. The paper has the cross-entropy between p and q in
    place of the KL; the gradient is the same, and the value is 0 where both agree. Samples without a label (label < 0) give 0.

    Raises:
        ValueError: temperature not positive, other numbers of outputs, a single class.
    """
    require_split(student_logits, teacher_logits, temperature)
    teacher_logits = teacher_logits.detach()
    student_ce, teacher_ce = (-log_target(logits.detach(), labels) for logits in (student_logits, teacher_logits))
    weight = -torch.expm1(-student_ce / (teacher_ce + 1e-7))
    log_p, log_q = log_softmax_at(teacher_logits, temperature), log_softmax_at(student_logits, temperature)
    return where_labelled(weight * kl_divergence(log_p, log_q) * temperature**2, labels)


class WSLD(nn.Module):
    """Weighted soft targets of one teacher.

    Args:
        temperature: softens both predictions; 2 for ImageNet and 4 for CIFAR in the paper, there with weight 2.25.
    """

    def __init__(self, temperature: Annotated[float, Gt(0)] = 2.0):
        super().__init__()
        self.temperature = temperature

    def forward(self, step: Step) -> Tensor:
        return wsld_loss(step.student.logits, step.teacher.logits, step.batch.labels, self.temperature)
