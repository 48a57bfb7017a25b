"""Soft targets: the teacher's softened predictions, T^2 * KL(teacher || student)."""

from typing import Annotated

from annotated_types import Gt
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import TopK, kl_divergence
from transfuse.core.types import Step
from transfuse.objectives.outputs._divergence import Combine, Confidence, Distribution, Kind, over_teachers, soft_divergence

CARD = Card(
    title="Knowledge distillation (soft targets)",
    paper="Hinton, Vinyals, Dean, 2015, NIPS Deep Learning Workshop",
    link="https://arxiv.org/abs/1503.02531",
    level="sample",
    needs=("teacher.logits",),
    paper_weight=0.9,
    tasks=("classification", "multilabel"),
    cost="the teacher's logits, once per sample and view when cached",
    teachers="several",
)


def kd_loss(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"] | TopK,
    temperature: float = 4.0,
    distribution: Kind = "softmax",
) -> Float[Tensor, "batch"]:
    """T^2 * KL(p || q) per sample, with p and q the teacher's and the student's predictions at temperature T, in nats.

    Softmax: KL = sum_c p_c log(p_c / q_c). Bernoulli (multilabel and single-logit heads): the sum over classes of the KL between
    sigmoid(z_c / T)'s. T^2 keeps the gradient's size as T grows. Differs from the paper in being a true KL, not a cross-entropy: the
    gradient is the same, and the value is 0 where student and teacher agree. Over a top-k teacher it is a lower bound of the full KL.

    Raises:
        ValueError: temperature is not positive; a softmax over a single logit, which is always 1; other numbers of outputs.
    """
    return soft_divergence(kl_divergence, student_logits, teacher_logits, temperature, distribution) * temperature**2


class KD(nn.Module):
    """Soft targets of one or several teachers.

    Args:
        temperature: softens both predictions; 1 to 8 is usual, 20 in the paper's MNIST experiment.
        distribution: softmax for one label per sample, bernoulli for multilabel and single-logit heads; auto decides by the labels.
        combine: with several teachers, the mean of their softened probabilities, of their logits, or of the losses against each.
        confidence: how teachers count per sample: equal; labels, more where they are right (CA-MKD); entropy, more where they are sure.
    """

    def __init__(
        self,
        temperature: Annotated[float, Gt(0)] = 4.0,
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
        return kd_loss(student_logits, teacher_logits, self.temperature, kind)
