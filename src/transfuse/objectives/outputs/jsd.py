"""Between both KLs: the generalised Jensen-Shannon divergence of student and teacher."""

from functools import partial
from typing import Annotated

from annotated_types import Gt, Lt
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import TopK, jensen_shannon
from transfuse.core.types import Step
from transfuse.objectives.outputs._divergence import Combine, Confidence, Distribution, Kind, over_teachers, soft_divergence

CARD = Card(
    title="Generalised Jensen-Shannon divergence",
    paper="Agarwal et al., 2024, ICLR (GKD)",
    link="https://arxiv.org/abs/2306.13649",
    level="sample",
    needs=("teacher.logits",),
    paper_weight=1.0,
    tasks=("classification", "multilabel"),
    cost="the teacher's logits, once per sample and view when cached",
    teachers="several",
)


def jsd_loss(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"] | TopK,
    beta: float = 0.5,
    temperature: float = 1.0,
    normalised: bool = False,
    distribution: Kind = "softmax",
) -> Float[Tensor, "batch"]:
    """T^2 * [beta KL(p || m) + (1 - beta) KL(q || m)] per sample, m = beta p + (1 - beta) q, p the teacher, q the student, in nats.

    beta = 1/2 is the Jensen-Shannon divergence. The formula vanishes towards beta = 0 and 1, where the paper and its implementations switch
    to the forward and the reverse KL, a jump by orders of magnitude. `normalised` divides by beta (1 - beta): then beta -> 0 is KL(p || q),
    beta -> 1 is KL(q || p), and a learning rate found for one beta serves another. Not normalised is the paper's form and the default.
    The paper has no T^2; it keeps the gradient's size as T grows, and at T = 1 there is no difference.

    Raises:
        ValueError: beta is not between 0 and 1 (for the ends there are kd and reverse_kl); and as kd.
    """
    if not 0 < beta < 1:
        raise ValueError(f"beta is {beta}; it lies between 0 and 1, and for the ends there are kd (0) and reverse_kl (1)")
    value = soft_divergence(partial(jensen_shannon, share=beta), student_logits, teacher_logits, temperature, distribution)
    return value * temperature**2 / (beta * (1 - beta) if normalised else 1)


class JSD(nn.Module):
    """Generalised Jensen-Shannon divergence from one or several teachers.

    Args:
        beta: the teacher's share in the mixture; small is near kd, large near reverse_kl.
        temperature: softens both predictions.
        normalised: divide by beta (1 - beta), so that values compare between betas.
        distribution: softmax for one label per sample, bernoulli for multilabel and single-logit heads; auto decides by the labels.
        combine: with several teachers, the mean of their softened probabilities, of their logits, or of the losses against each.
        confidence: how teachers count per sample: equal; labels, more where they are right (CA-MKD); entropy, more where they are sure.
    """

    def __init__(
        self,
        beta: Annotated[float, Gt(0), Lt(1)] = 0.5,
        temperature: Annotated[float, Gt(0)] = 1.0,
        normalised: bool = False,
        distribution: Distribution = "auto",
        combine: Combine = "probabilities",
        confidence: Confidence = "equal",
    ):
        super().__init__()
        self.beta, self.temperature, self.normalised = beta, temperature, normalised
        self.distribution: Distribution = distribution
        self.combine: Combine = combine
        self.confidence: Confidence = confidence

    def forward(self, step: Step) -> Tensor:
        return over_teachers(self._loss, step, self.temperature, self.distribution, self.combine, self.confidence)

    def _loss(self, student_logits: Tensor, teacher_logits: Tensor | TopK, kind: Kind) -> Tensor:
        return jsd_loss(student_logits, teacher_logits, self.beta, self.temperature, self.normalised, kind)
