"""Soft targets whose temperature plays against the student: learnt, with its gradient reversed, harder as training goes on."""

import math
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32, kl_divergence, log_softmax_at
from transfuse.core.types import Step
from transfuse.objectives.outputs._divergence import require_classes, require_same_outputs

CARD = Card(
    title="Curriculum temperature (CTKD), global",
    paper="Li et al., 2023, AAAI",
    link="https://arxiv.org/abs/2211.16231",
    level="sample",
    needs=("teacher.logits.dense",),
    paper_weight=0.9,
    tasks=("classification",),
    cost="the teacher's logits, once per sample and view when cached; one learnt number",
)


def ctkd_loss(
    student_logits: Float[Tensor, "batch classes"], teacher_logits: Float[Tensor, "batch classes"], temperature: Float[Tensor, ""]
) -> Float[Tensor, "batch"]:
    """T^2 * KL(p || q) per sample at a temperature that has a gradient, in nats; p the teacher's, q the student's prediction.

    The teacher's logits have no gradient, but its softened prediction depends on T, and that dependence counts.

    Raises:
        ValueError: other numbers of outputs, a single class.
    """
    require_same_outputs(student_logits, teacher_logits)
    require_classes(student_logits)
    teacher_logits = at_least_fp32(teacher_logits.detach())
    log_p, log_q = log_softmax_at(teacher_logits / temperature), log_softmax_at(at_least_fp32(student_logits) / temperature)
    return kl_divergence(log_p, log_q) * temperature**2


class CTKD(nn.Module):
    """Soft targets at one learnt temperature T = lowest + span * sigmoid(raw), raw starting at 1.

    T climbs the loss that the student descends: its gradient is multiplied by -lambda, where lambda = (1 - cos(pi progress / warmup)) / 2
    grows from 0 to 1 and stays there. The paper also predicts a temperature per sample by a small network, with about the same results;
    that form is left out, because its network would have to know the number of classes before it is built.

    Args:
        lowest: the lowest temperature.
        span: how far above it the temperature can go.
        warmup: fraction of training after which the reversal has its full strength; 10 of 240 epochs in the paper.
    """

    def __init__(
        self,
        lowest: Annotated[float, Gt(0)] = 1.0,
        span: Annotated[float, Gt(0)] = 20.0,
        warmup: Annotated[float, Ge(0), Le(1)] = 10 / 240,
    ):
        super().__init__()
        self.lowest, self.span, self.warmup = lowest, span, warmup
        self.raw = nn.Parameter(torch.ones(()))

    def strength(self, progress: float) -> float:
        """lambda at this fraction of training."""
        return 1.0 if progress >= self.warmup else 0.5 * (1 - math.cos(math.pi * progress / self.warmup))

    def forward(self, step: Step) -> Tensor:
        reversal = self.strength(step.progress)
        raw = self.raw.detach() * (1 + reversal) - self.raw * reversal  # the value of raw, -reversal times its gradient
        return ctkd_loss(step.student.logits, step.teacher.logits, self.lowest + self.span * torch.sigmoid(raw))
