"""Squared difference of the raw outputs: logits, or the predictions of a regression."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32
from transfuse.core.types import Step
from transfuse.objectives.outputs._divergence import require_same_outputs

CARD = Card(
    title="Logit matching",
    paper="Ba, Caruana, 2014, NIPS",
    link="https://arxiv.org/abs/1312.6184",
    level="sample",
    needs=("teacher.logits.dense",),
    paper_weight=0.5,
    tasks=("regression", "classification", "multilabel"),
    cost="the teacher's outputs, once per sample and view when cached",
    teachers="several",
)


def logit_mse_loss(
    student_logits: Float[Tensor, "batch classes"], teacher_logits: Float[Tensor, "batch classes"], over: Literal["mean", "sum"] = "mean"
) -> Float[Tensor, "batch"]:
    """mean_c (s_c - t_c)^2 per sample over its outputs, or their sum.

    The paper writes the sum with a factor 1/2 (`paper_weight`); the mean, the default here, keeps a weight's meaning from 10 to 1000
    classes and from one regression target to many. Regression outputs are compared in units of the targets' standard deviation.

    Raises:
        ValueError: other numbers of outputs.
    """
    require_same_outputs(student_logits, teacher_logits)
    squares = (at_least_fp32(student_logits) - at_least_fp32(teacher_logits.detach())).square()
    return squares.mean(-1) if over == "mean" else squares.sum(-1)


class LogitMSE(nn.Module):
    """Squared difference to one teacher's outputs, or to the mean of several.

    Args:
        over: mean or sum over a sample's outputs.
    """

    def __init__(self, over: Literal["mean", "sum"] = "mean"):
        super().__init__()
        self.over: Literal["mean", "sum"] = over

    def forward(self, step: Step) -> Tensor:
        # the mean of the squared differences to each would only add the teachers' spread, which has no gradient
        teacher_logits = torch.stack([at_least_fp32(signals.logits) for signals in step.teachers.values()]).mean(0)
        return logit_mse_loss(step.student.logits, teacher_logits, self.over)
