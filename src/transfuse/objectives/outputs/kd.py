"""Soft targets: the teacher's softened predictions, T^2 * KL(teacher || student)."""

from typing import Annotated, Literal

from annotated_types import Gt
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import bernoulli_kl, kl_divergence, log_softmax_at
from transfuse.core.types import Step, float_labels

CARD = Card(
    title="Knowledge distillation (soft targets)",
    paper="Hinton, Vinyals, Dean, 2015, NIPS Deep Learning Workshop",
    link="https://arxiv.org/abs/1503.02531",
    level="sample",
    needs=("teacher.logits",),
    paper_weight=0.9,
    tasks=("classification", "multilabel"),
    cost="the teacher's logits, once per sample and view when cached",
)

Distribution = Literal["auto", "softmax", "bernoulli"]


def kd_loss(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    temperature: float = 4.0,
    distribution: Literal["softmax", "bernoulli"] = "softmax",
) -> Float[Tensor, "batch"]:
    """T^2 * KL(p || q) per sample, with p and q the teacher's and the student's predictions at temperature T, in nats.

    Softmax: KL = sum_c p_c log(p_c / q_c). Bernoulli (multilabel and single-logit heads): the sum over classes of the KL between
    sigmoid(z_c / T)'s. T^2 keeps the gradient's size as T grows. Differs from the paper in being a true KL, not a cross-entropy: the
    gradient is the same, and the value is 0 where student and teacher agree.

    Raises:
        ValueError: temperature is not positive; a softmax over a single logit, which is always 1.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; it must be positive")
    teacher_logits = teacher_logits.detach()
    if distribution == "bernoulli":
        return bernoulli_kl(teacher_logits, student_logits, temperature) * temperature**2
    if student_logits.shape[-1] < 2:
        raise ValueError("a softmax over one logit is always 1 and teaches nothing; use distribution='bernoulli'")
    log_p, log_q = log_softmax_at(teacher_logits, temperature), log_softmax_at(student_logits, temperature)
    return kl_divergence(log_p, log_q) * temperature**2


class KD(nn.Module):
    """Soft targets of one teacher.

    Args:
        temperature: softens both predictions; 1 to 8 is usual, 20 in the paper's MNIST experiment.
        distribution: softmax for one label per sample, bernoulli for multilabel and single-logit heads; auto decides by the labels.
    """

    def __init__(self, temperature: Annotated[float, Gt(0)] = 4.0, distribution: Distribution = "auto"):
        super().__init__()
        self.temperature = temperature
        self.distribution: Distribution = distribution

    def forward(self, step: Step) -> Tensor:
        distribution: Distribution = self.distribution
        if distribution == "auto":
            independent = step.student.logits.shape[-1] == 1 or float_labels(step.batch.labels)
            distribution = "bernoulli" if independent else "softmax"
        return kd_loss(step.student.logits, step.teacher.logits, self.temperature, distribution)
