"""Mode seeking: T^2 * KL(student || teacher)."""

from typing import Annotated

from annotated_types import Gt
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import TopK, reverse_kl_divergence
from transfuse.core.types import Step
from transfuse.objectives.outputs._divergence import Combine, Confidence, Distribution, Kind, over_teachers, soft_divergence

CARD = Card(
    title="Reverse KL",
    paper="Gu, Dong, Wei, Huang, 2024, ICLR (MiniLLM)",
    link="https://arxiv.org/abs/2306.08543",
    level="sample",
    needs=("teacher.logits",),
    paper_weight=1.0,
    tasks=("classification", "multilabel"),
    cost="the teacher's logits, once per sample and view when cached",
    teachers="several",
)


def reverse_kl_loss(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"] | TopK,
    temperature: float = 1.0,
    distribution: Kind = "softmax",
) -> Float[Tensor, "batch"]:
    """T^2 * KL(q || p) = T^2 * sum_c q_c log(q_c / p_c) per sample, q the student's and p the teacher's prediction at temperature T, in
    nats.

    It punishes the student for probability where the teacher has none, so a small student gives up rare classes rather than blur. The paper
    applies it to whole sequences sampled from the student, at T = 1; here it is the exact divergence of each prediction. T^2 keeps the
    gradient's size as T grows. Over a top-k teacher the tail is one event: without it the student's best answer would not be the teacher's.

    Raises:
        ValueError: as kd.
    """
    return soft_divergence(reverse_kl_divergence, student_logits, teacher_logits, temperature, distribution) * temperature**2


class ReverseKL(nn.Module):
    """KL from the student to one or several teachers.

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
        return reverse_kl_loss(student_logits, teacher_logits, self.temperature, kind)
