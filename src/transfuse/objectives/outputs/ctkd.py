"""Soft targets whose temperature plays against the student: learnt, with its gradient reversed, harder as training goes on."""

import math
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32, kl_divergence, log_softmax_at
from transfuse.core.types import Step
from transfuse.objectives.outputs._divergence import require_classes, require_same_outputs

CARD = Card(
    title="Curriculum temperature (CTKD)",
    paper="Li et al., 2023, AAAI",
    link="https://arxiv.org/abs/2211.16231",
    level="sample",
    needs=("teacher.logits.dense",),
    paper_weight=0.9,
    tasks=("classification",),
    cost="the teacher's logits, once per sample and view when cached; one learnt number, or a small network for one per sample",
)


Form = Literal["global", "instance"]


def ctkd_loss(
    student_logits: Float[Tensor, "batch classes"], teacher_logits: Float[Tensor, "batch classes"], temperature: Float[Tensor, "*batch"]
) -> Float[Tensor, "batch"]:
    """T^2 * KL(p || q) per sample at a temperature that has a gradient, in nats; p the teacher's, q the student's prediction.

    temperature is one number, or one per sample. The teacher's logits have no gradient, but its softened prediction depends on T, and that
    dependence counts.

    Raises:
        ValueError: other numbers of outputs, a single class.
    """
    require_same_outputs(student_logits, teacher_logits)
    require_classes(student_logits)
    teacher_logits = at_least_fp32(teacher_logits.detach())
    divisor = temperature[..., None]
    log_p, log_q = log_softmax_at(teacher_logits / divisor), log_softmax_at(at_least_fp32(student_logits) / divisor)
    return kl_divergence(log_p, log_q) * temperature**2


class CTKD(nn.Module):
    """Soft targets at a learnt temperature T = lowest + span * sigmoid(raw).

    T climbs the loss that the student descends: its gradient is multiplied by -lambda, where lambda = (1 - cos(pi progress / warmup)) / 2
    grows from 0 to 1 and stays there.

    global: raw is one number, starting at 1. instance: raw comes from a network of two layers, which sees what student and teacher
    predict for the sample (as log-probabilities, so that it doesn't matter which constant a model adds to its logits) and starts at 1
    too, for every sample. The student gets no gradient through that network: it would learn to ask for an easy temperature. The paper
    finds both about equal, and the authors' released code has the global one alone, so that is the default.

    Args:
        lowest: the lowest temperature.
        span: how far above it the temperature can go.
        warmup: fraction of training after which the reversal has its full strength; 10 of 240 epochs in the paper.
        form: one temperature for all samples (global), or one for each (instance).
    """

    raw: nn.Parameter

    def __init__(
        self,
        lowest: Annotated[float, Gt(0)] = 1.0,
        span: Annotated[float, Gt(0)] = 20.0,
        warmup: Annotated[float, Ge(0), Le(1)] = 10 / 240,
        form: Form = "global",
    ):
        super().__init__()
        self.lowest, self.span, self.warmup = lowest, span, warmup
        self.form: Form = form
        self.network: nn.Sequential | None = None
        if form == "global":
            self.raw = nn.Parameter(torch.ones(()))

    def set_outputs(self, outputs: int) -> None:
        """Makes the network of the instance form, for predictions of so many classes."""
        if self.form == "instance":
            last = nn.Linear(outputs, 1)
            nn.init.zeros_(last.weight)
            nn.init.ones_(last.bias)
            self.network = nn.Sequential(nn.Linear(2 * outputs, outputs), nn.ReLU(), last)

    def strength(self, progress: float) -> float:
        """lambda at this fraction of training."""
        return 1.0 if progress >= self.warmup else 0.5 * (1 - math.cos(math.pi * progress / self.warmup))

    def temperature(self, step: Step) -> Float[Tensor, "*batch"]:
        """One number, or one per sample, with its gradient as it is.

        Raises:
            ValueError: the network isn't there, or is of another number of classes.
        """
        return self.lowest + self.span * torch.sigmoid(self._raw(step))

    def _raw(self, step: Step) -> Tensor:
        if self.form == "global":
            return self.raw
        if self.network is None or self.network[0].in_features != 2 * step.student.logits.shape[-1]:
            raise ValueError(f"no network for {step.student.logits.shape[-1]} classes predicts the temperature; call set_outputs first")
        seen = torch.cat([log_softmax_at(signals.logits.detach()) for signals in (step.student, step.teacher)], dim=-1)
        return self.network(seen)[:, 0]

    def forward(self, step: Step) -> Tensor:
        require_same_outputs(step.student.logits, step.teacher.logits)
        reversal, raw = self.strength(step.progress), self._raw(step)
        raw = raw.detach() * (1 + reversal) - raw * reversal  # the value of raw, -reversal times its gradient
        return ctkd_loss(step.student.logits, step.teacher.logits, self.lowest + self.span * torch.sigmoid(raw))
