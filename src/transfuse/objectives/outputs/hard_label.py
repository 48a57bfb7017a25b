"""The teacher's decision as the label: cross-entropy with its most probable class."""

from typing import Annotated

import torch.nn.functional as F
from annotated_types import Ge, Lt
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32, log_softmax_at
from transfuse.core.types import Step
from transfuse.objectives.outputs._divergence import Distribution, Kind, kind_of, require_classes, require_same_outputs

CARD = Card(
    title="Hard-label distillation",
    paper="Touvron et al., 2021, ICML (DeiT)",
    link="https://arxiv.org/abs/2012.12877",
    level="sample",
    needs=("teacher.logits.dense",),
    paper_weight=0.5,
    tasks=("classification", "multilabel"),
    cost="the teacher's logits, once per sample and view when cached",
)


def hard_label_loss(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    smoothing: float = 0.0,
    distribution: Kind = "softmax",
) -> Float[Tensor, "batch"]:
    """-sum_c target_c log q_c per sample, in nats, with target = (1 - smoothing) onehot(argmax teacher) + smoothing / classes.

    Bernoulli (multilabel and single-logit heads): the sum over classes of the binary cross-entropy with [teacher logit > 0], smoothed
    towards 1/2. DeiT applies it to a distillation token of its own; here it is the student's only output.

    Raises:
        ValueError: a softmax over one logit; other numbers of outputs.
    """
    require_same_outputs(student_logits, teacher_logits)
    teacher_logits = teacher_logits.detach()
    if distribution == "bernoulli":
        student_logits = at_least_fp32(student_logits)
        targets = (teacher_logits > 0).to(student_logits.dtype) * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(student_logits, targets, reduction="none").sum(-1)
    require_classes(student_logits)
    log_q = log_softmax_at(student_logits)
    decided = -log_q.gather(-1, teacher_logits.argmax(-1, keepdim=True))[:, 0]
    return (1 - smoothing) * decided - smoothing * log_q.mean(-1)


class HardLabel(nn.Module):
    """Cross-entropy with one teacher's decisions.

    Args:
        smoothing: probability mass spread evenly over all classes; 0.1 in the paper's comparison.
        distribution: softmax for one label per sample, bernoulli for multilabel and single-logit heads; auto decides by the labels.
    """

    def __init__(self, smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0, distribution: Distribution = "auto"):
        super().__init__()
        self.smoothing = smoothing
        self.distribution: Distribution = distribution

    def forward(self, step: Step) -> Tensor:
        return hard_label_loss(step.student.logits, step.teacher.logits, self.smoothing, kind_of(self.distribution, step))
