"""KL against a mixture of both predictions, which bounds its gradient."""

from functools import partial
from typing import Annotated, Literal

from annotated_types import Gt, Lt
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import TopK, kl_divergence, log_mixture
from transfuse.core.types import Step
from transfuse.objectives.outputs._divergence import Combine, Confidence, Distribution, Kind, over_teachers, soft_divergence

CARD = Card(
    title="Skew KL",
    paper="Ko, Kim, Chen, Yun, 2024, ICML (DistiLLM)",
    link="https://arxiv.org/abs/2402.03898",
    level="sample",
    needs=("teacher.logits",),
    paper_weight=1.0,
    tasks=("classification", "multilabel"),
    cost="the teacher's logits, once per sample and view when cached",
    teachers="several",
)

Direction = Literal["forward", "reverse"]


def skew_kl_loss(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"] | TopK,
    skew: float = 0.1,
    direction: Direction = "forward",
    temperature: float = 1.0,
    distribution: Kind = "softmax",
) -> Float[Tensor, "batch"]:
    """T^2 * KL(p || skew p + (1 - skew) q) per sample, in nats; reverse: T^2 * KL(q || skew q + (1 - skew) p).

    p is the teacher's prediction and q the student's, at temperature T. A little of the first distribution in the second keeps the ratio,
    and with it the gradient, bounded. The authors' code leaves out the entropy of p, which has no gradient; here the value is 0 where both
    agree. The paper has no T^2; it keeps the gradient's size as T grows, and at T = 1 there is no difference.

    Raises:
        ValueError: skew is not between 0 and 1; and as kd.
    """
    if not 0 < skew < 1:
        raise ValueError(f"skew is {skew}; it lies between 0 and 1, and without skew there are kd and reverse_kl")

    measure = partial(_skewed, skew=skew, direction=direction)
    return soft_divergence(measure, student_logits, teacher_logits, temperature, distribution) * temperature**2


def _skewed(teacher_log_p: Tensor, student_log_p: Tensor, skew: float, direction: Direction) -> Tensor:
    first, second = (teacher_log_p, student_log_p) if direction == "forward" else (student_log_p, teacher_log_p)
    return kl_divergence(first, log_mixture(first, second, skew))


class SkewKL(nn.Module):
    """Skew KL from one or several teachers.

    Args:
        skew: share of the first distribution in the second; 0.1 in the paper.
        direction: forward is KL from the teacher (SKL), reverse from the student (SRKL).
        temperature: softens both predictions.
        distribution: softmax for one label per sample, bernoulli for multilabel and single-logit heads; auto decides by the labels.
        combine: with several teachers, the mean of their softened probabilities, of their logits, or of the losses against each.
        confidence: how teachers count per sample: equal; labels, more where they are right (CA-MKD); entropy, more where they are sure.
    """

    def __init__(
        self,
        skew: Annotated[float, Gt(0), Lt(1)] = 0.1,
        direction: Direction = "forward",
        temperature: Annotated[float, Gt(0)] = 1.0,
        distribution: Distribution = "auto",
        combine: Combine = "probabilities",
        confidence: Confidence = "equal",
    ):
        super().__init__()
        self.skew, self.temperature = skew, temperature
        self.direction: Direction = direction
        self.distribution: Distribution = distribution
        self.combine: Combine = combine
        self.confidence: Confidence = confidence

    def forward(self, step: Step) -> Tensor:
        return over_teachers(self._loss, step, self.temperature, self.distribution, self.combine, self.confidence)

    def _loss(self, student_logits: Tensor, teacher_logits: Tensor | TopK, kind: Kind) -> Tensor:
        return skew_kl_loss(student_logits, teacher_logits, self.skew, self.direction, self.temperature, kind)
