"""Soft targets in two parts, each with its weight: how sure of the label, and which other classes are near."""

from typing import Annotated

from annotated_types import Ge, Gt
from jaxtyping import Float, Int
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import kl_divergence
from transfuse.core.types import Step
from transfuse.objectives.outputs._target import log_others, log_target_and_rest, require_split, where_labelled

CARD = Card(
    title="Decoupled knowledge distillation (DKD)",
    paper="Zhao, Cui, Song, Qiu, Liang, 2022, CVPR",
    link="https://arxiv.org/abs/2203.08679",
    level="sample",
    needs=("hard_labels", "teacher.logits.dense"),
    paper_weight=1.0,
    tasks=("classification",),
    cost="the teacher's logits, once per sample and view when cached",
)


def dkd_loss(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, "batch"],
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Float[Tensor, "batch"]:
    """T^2 * (alpha TCKD + beta NCKD) per sample, in nats, p and q the teacher's and the student's predictions at temperature T.

    TCKD = KL between (p_y, 1 - p_y) and (q_y, 1 - q_y), y the label. NCKD = KL between the predictions among the other classes, each
    rescaled to sum to 1. With alpha = 1 and beta = 1 - p_y it is kd. With two classes NCKD is 0. The authors' code takes logarithms of
    rounded probabilities and masks the label by subtracting 1000; here both parts are exact for any logits. The paper warms the term up
    over 20 of 240 epochs: `weight: {linear: {start: 0, end: 1}}` or similar in the recipe. Samples without a label (label < 0) give 0.

    Raises:
        ValueError: temperature not positive, other numbers of outputs, a single class.
    """
    require_split(student_logits, teacher_logits, temperature)
    teacher_logits = teacher_logits.detach()
    student, teacher = (log_target_and_rest(logits, labels, temperature) for logits in (student_logits, teacher_logits))
    student_others, teacher_others = (log_others(logits, labels, temperature) for logits in (student_logits, teacher_logits))
    value = alpha * kl_divergence(teacher, student) + beta * kl_divergence(teacher_others, student_others)
    return where_labelled(value * temperature**2, labels)


class DKD(nn.Module):
    """Decoupled soft targets of one teacher.

    Args:
        alpha: weight of the part about the labelled class.
        beta: weight of the part about the other classes; in the paper 2 (ResNet), 6 (WRN, VGG), 8 (ResNet 8x4, MobileNet), 0.5 (ImageNet).
        temperature: softens both predictions.
    """

    def __init__(
        self, alpha: Annotated[float, Ge(0)] = 1.0, beta: Annotated[float, Ge(0)] = 8.0, temperature: Annotated[float, Gt(0)] = 4.0
    ):
        super().__init__()
        self.alpha, self.beta, self.temperature = alpha, beta, temperature

    def forward(self, step: Step) -> Tensor:
        return dkd_loss(step.student.logits, step.teacher.logits, step.batch.labels, self.alpha, self.beta, self.temperature)
