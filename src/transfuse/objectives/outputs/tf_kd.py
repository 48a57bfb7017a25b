"""A teacher without a teacher: a made-up soft prediction that is right and gives every other class the same."""

import math
from typing import Annotated

import torch
from annotated_types import Gt, Lt
from jaxtyping import Float, Int
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import kl_divergence, log_softmax_at
from transfuse.core.types import Step
from transfuse.objectives.outputs._divergence import require_classes, require_temperature
from transfuse.objectives.outputs._target import target_mask, where_labelled

CARD = Card(
    title="Teacher-free distillation (Tf-KD, virtual teacher)",
    paper="Yuan, Tay, Li, Wang, Feng, 2020, CVPR",
    link="https://arxiv.org/abs/1909.11723",
    level="sample",
    needs=("hard_labels",),
    paper_weight=0.1,
    tasks=("classification",),
    cost="none",
)


def tf_kd_loss(
    student_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, "batch"],
    correct: float = 0.99,
    temperature: float = 20.0,
    soften_student: bool = False,
) -> Float[Tensor, "batch"]:
    """KL(softmax(d / T) || q) per sample, in nats; d = correct at the label and (1 - correct) / (classes - 1) elsewhere.

    d is softened as if its probabilities were logits, in the paper as in the authors' code. q is the student's prediction at temperature 1,
    as in the code and by default, or with `soften_student` at T, the value then multiplied by T^2, as the paper's formula reads. The code
    divides by the number of classes as well (`nn.KLDivLoss()`) and makes up for it by a multiplier; here it is a true KL. It is not 0 where
    the student agrees with the label: what it asks for is doubt. Samples without a label (label < 0) give 0.

    Raises:
        ValueError: temperature not positive; a single class.
    """
    require_temperature(temperature)
    require_classes(student_logits)
    log_q = log_softmax_at(student_logits, temperature if soften_student else 1.0)
    classes = student_logits.shape[-1]
    gap = (correct - (1 - correct) / (classes - 1)) / temperature  # between the label's and the others' logits
    top = max(gap, 0.0)
    rest = -top - math.log(math.exp(gap - top) + (classes - 1) * math.exp(-top))  # minus the log of the softmax's denominator
    log_p = torch.full_like(log_q, rest).masked_fill(target_mask(student_logits, labels), gap + rest)
    return where_labelled(kl_divergence(log_p, log_q) * (temperature**2 if soften_student else 1), labels)


class TfKD(nn.Module):
    """Soft targets of a virtual teacher.

    Args:
        correct: probability that the virtual teacher gives to the label before softening.
        temperature: softens the virtual teacher.
        soften_student: soften the student as well, and multiply by the squared temperature.
    """

    def __init__(
        self,
        correct: Annotated[float, Gt(0), Lt(1)] = 0.99,
        temperature: Annotated[float, Gt(0)] = 20.0,
        soften_student: bool = False,
    ):
        super().__init__()
        self.correct, self.temperature, self.soften_student = correct, temperature, soften_student

    def forward(self, step: Step) -> Tensor:
        return tf_kd_loss(step.student.logits, step.batch.labels, self.correct, self.temperature, self.soften_student)
