"""Soft cross-entropy with the label's class and, rescaled to sum to 1, with the others."""

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float, Int
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import log_softmax_at
from transfuse.core.types import Step
from transfuse.objectives.outputs._target import log_others, log_target, require_split, target_mask, where_labelled

CARD = Card(
    title="Normalised knowledge distillation (NKD)",
    paper="Yang et al., 2023, ICCV",
    link="https://arxiv.org/abs/2303.13005",
    level="sample",
    needs=("hard_labels", "teacher.logits.dense"),
    paper_weight=1.0,
    tasks=("classification",),
    cost="the teacher's logits, once per sample and view when cached",
)

Others = Literal["without_label", "with_label"]


def nkd_loss(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, "batch"],
    gamma: float = 1.5,
    temperature: float = 1.0,
    others: Others = "without_label",
) -> Float[Tensor, "batch"]:
    """-p_y log q_y - gamma T^2 sum_{c != y} p'_c log q'_c per sample, in nats; y the label.

    p and q are the teacher's and the student's predictions at T = 1, p' and q' those at temperature T among the other classes only, each
    summing to 1. These are cross-entropies: where both agree the value is an entropy, not 0, and the gradient of the second part is 0. With
    two classes the second part is 0. Samples without a label (label < 0) give 0.

    with_label: the second sum runs over all classes, with p and q at temperature T in place of p' and q'. So computes the loss in the
    authors' code for mmpretrain (github.com/yzd-v/cls_KD), whose mask lets every class through; their first code and the paper leave the
    label out, which is what the method is named for and the default here.

    Raises:
        ValueError: temperature not positive, other numbers of outputs, a single class.
    """
    require_split(student_logits, teacher_logits, temperature)
    teacher_logits = teacher_logits.detach()
    about_label = -log_target(teacher_logits, labels).exp() * log_target(student_logits, labels)
    if others == "with_label":
        log_p, log_q = (log_softmax_at(logits, temperature) for logits in (teacher_logits, student_logits))
    else:
        log_p, log_q = (log_others(logits, labels, temperature) for logits in (teacher_logits, student_logits))
        log_q = torch.where(target_mask(student_logits, labels), 0.0, log_q)  # 0 times the label's -inf would be NaN
    about_others = -(log_p.exp() * log_q).sum(-1)
    return where_labelled(about_label + gamma * temperature**2 * about_others, labels)


class NKD(nn.Module):
    """Normalised soft targets of one teacher.

    Args:
        gamma: weight of the part about the other classes.
        temperature: softens the other classes' probabilities.
        others: without_label, as in the paper, or with_label, as in one state of the authors' code.
    """

    def __init__(self, gamma: Annotated[float, Ge(0)] = 1.5, temperature: Annotated[float, Gt(0)] = 1.0, others: Others = "without_label"):
        super().__init__()
        self.gamma, self.temperature = gamma, temperature
        self.others: Others = others

    def forward(self, step: Step) -> Tensor:
        return nkd_loss(step.student.logits, step.teacher.logits, step.batch.labels, self.gamma, self.temperature, self.others)
