"""Soft targets of standardised logits: the student needs the teacher's shape, not its scale."""

from typing import Annotated, Literal

import torch
from annotated_types import Gt
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32, kl_divergence, log_softmax_at
from transfuse.core.types import Step
from transfuse.objectives.outputs._divergence import require_same_outputs, require_temperature

CARD = Card(
    title="Logit standardisation",
    paper="Sun, Ren, Li, Wang, Cao, 2024, CVPR",
    link="https://arxiv.org/abs/2403.01427",
    level="sample",
    needs=("teacher.logits.dense",),
    paper_weight=9.0,
    tasks=("classification",),
    cost="the teacher's logits, once per sample and view when cached",
)

Deviation = Literal["sample", "population"]
EVEN = 1e-3  # deviation below which logits say nothing that could be brought to scale


def logit_standard_loss(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    temperature: float = 2.0,
    deviation: Deviation = "sample",
) -> Float[Tensor, "batch"]:
    """T^2 * KL(softmax(z(t) / T) || softmax(z(s) / T)) per sample, in nats, with z(x) = (x - mean x) / (std x + 1e-7) over the classes.

    The value doesn't change when a sample's logits are shifted or scaled. The standard deviation divides by classes - 1 (sample), as the
    authors' code does and as their figures were made, or by classes (population), as the paper writes it. Logits whose deviation is below
    0.001, such as those of a head that starts at zero, are not divided by it: their gradient would be millions.

    Raises:
        ValueError: two classes, where standardised logits are constants and nothing can be learnt; temperature not positive; other numbers
            of outputs.
    """
    require_temperature(temperature)
    require_same_outputs(student_logits, teacher_logits)
    if student_logits.shape[-1] < 3:
        raise ValueError(
            "standardised logits of two classes are always the same two numbers and teach nothing; use kd, or 3 classes and more"
        )
    log_p, log_q = (log_softmax_at(_standardised(logits, deviation), temperature) for logits in (teacher_logits.detach(), student_logits))
    return kl_divergence(log_p, log_q) * temperature**2


def _standardised(logits: Float[Tensor, "batch classes"], deviation: Deviation) -> Float[Tensor, "batch classes"]:
    logits = at_least_fp32(logits)
    spread = logits.std(-1, keepdim=True, correction=1 if deviation == "sample" else 0)
    return (logits - logits.mean(-1, keepdim=True)) / torch.where(spread > EVEN, spread + 1e-7, 1.0)


class LogitStandard(nn.Module):
    """Standardised soft targets of one teacher.

    Args:
        temperature: softens both standardised predictions; the paper's base temperature, tuned per pair there.
        deviation: sample as in the authors' code, population as in the paper.
    """

    def __init__(self, temperature: Annotated[float, Gt(0)] = 2.0, deviation: Deviation = "sample"):
        super().__init__()
        self.temperature = temperature
        self.deviation: Deviation = deviation

    def forward(self, step: Step) -> Tensor:
        return logit_standard_loss(step.student.logits, step.teacher.logits, self.temperature, self.deviation)
