"""The bounded distance: half the sum of absolute differences of probabilities."""

from typing import Annotated

from annotated_types import Gt
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import TopK, total_variation
from transfuse.core.types import Step
from transfuse.objectives.outputs._divergence import Combine, Confidence, Distribution, Kind, over_teachers, soft_divergence

CARD = Card(
    title="Total variation distance",
    paper="Wen, Li, Du, Mou, 2023, ACL (f-distill)",
    link="https://arxiv.org/abs/2307.15190",
    level="sample",
    needs=("teacher.logits",),
    paper_weight=1.0,
    tasks=("classification", "multilabel"),
    cost="the teacher's logits, once per sample and view when cached",
    teachers="several",
)


def tvd_loss(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"] | TopK,
    temperature: float = 1.0,
    distribution: Kind = "softmax",
) -> Float[Tensor, "batch"]:
    """T * 1/2 sum_c |p_c - q_c| per sample, p and q the teacher's and the student's predictions at temperature T; at T = 1 between 0 and 1.

    Bernoulli (multilabel and single-logit heads): the sum over classes of |p_c - q_c|. The distance is linear in small differences, so T
    and not T^2 keeps the gradient's size as T grows; the paper has no temperature.

    Raises:
        ValueError: as kd.
    """
    return soft_divergence(total_variation, student_logits, teacher_logits, temperature, distribution) * temperature


class TVD(nn.Module):
    """Total variation distance from one or several teachers.

    Args:
        temperature: softens both predictions.
        distribution: softmax for one label per sample, bernoulli for multilabel and single-logit heads; auto decides by the labels.
        combine: with several teachers, the mean of their softened probabilities, of their logits, or of the losses against each.
        confidence: how teachers count per sample: equal; labels, more where they are right (CA-MKD); entropy, more where they are sure.
    """

    def __init__(
        self,
        temperature: Annotated[float, Gt(0)] = 1.0,
        distribution: Distribution = "auto",
        combine: Combine = "probabilities",
        confidence: Confidence = "equal",
    ):
        super().__init__()
        self.temperature = temperature
        self.distribution: Distribution = distribution
        self.combine: Combine = combine
        self.confidence: Confidence = confidence

    def forward(self, step: Step) -> Tensor:
        return over_teachers(self._loss, step, self.temperature, self.distribution, self.combine, self.confidence)

    def _loss(self, student_logits: Tensor, teacher_logits: Tensor | TopK, kind: Kind) -> Tensor:
        return tvd_loss(student_logits, teacher_logits, self.temperature, kind)
