"""Cross-entropy with the labels, with label smoothing and class weights."""

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt
from jaxtyping import Float, Int
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32
from transfuse.core.types import Step

CARD = Card(
    title="Cross-entropy",
    paper="label smoothing: Szegedy et al., 2016, CVPR",
    link="https://arxiv.org/abs/1512.00567",
    level="sample",
    needs=("labels",),
    paper_weight=1.0,
    tasks=("classification",),
    cost="none",
)


def cross_entropy_loss(
    student_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, "batch"],
    smoothing: float = 0.0,
    class_weights: Float[Tensor, "classes"] | None = None,
) -> Float[Tensor, "batch"]:
    """-w_y sum_c target_c log q_c per sample, in nats, with target = (1 - smoothing) onehot(y) + smoothing / classes.

    A single logit z is the log-odds of the second of two classes: the same as the logits (0, z).

    Class weights multiply a sample's value by the weight of its label (torch's own smoothing weighs each class's log-probability
    instead). Samples without a label (label < 0) give 0.

    Raises:
        ValueError: class_weights has not one entry per class.
    """
    student_logits = _of_classes(student_logits)
    _require_one_per_class(class_weights, student_logits)
    log_q = F.log_softmax(at_least_fp32(student_logits), dim=-1)
    known = labels.clamp(min=0)
    hard = -log_q.gather(-1, known[:, None])[:, 0]
    loss = (1 - smoothing) * hard - smoothing * log_q.mean(-1) if smoothing else hard
    if class_weights is not None:
        loss = loss * class_weights[known]
    return torch.where(labels >= 0, loss, torch.zeros_like(loss))


def _of_classes(logits: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(logits), logits], dim=-1) if logits.shape[-1] == 1 else logits


def _require_one_per_class(class_weights: Tensor | None, logits: Tensor) -> None:
    if class_weights is not None and len(class_weights) != logits.shape[-1]:
        raise ValueError(f"class_weights has {len(class_weights)} entries for {logits.shape[-1]} classes; give one per class")


class CrossEntropy(nn.Module):
    """Cross-entropy with the labels.

    Args:
        smoothing: probability mass spread evenly over all classes; 0 trusts the labels, 0.1 is usual.
        class_weights: one factor per class, in class order, for unbalanced data.
    """

    class_weights: Tensor | None

    def __init__(self, smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0, class_weights: list[float] | None = None):
        super().__init__()
        self.smoothing = smoothing
        self.register_buffer("class_weights", torch.tensor(class_weights) if class_weights else None, persistent=False)

    def forward(self, step: Step) -> Tensor:
        logits = _of_classes(step.student.logits)
        if step.batch.label_probabilities is not None:  # mixed labels: the expectation over them
            weighted = step.batch.label_probabilities
            _require_one_per_class(self.class_weights, logits)
            if self.class_weights is not None:  # of the label, before smoothing: E[w_y CE_y] is not E[w_y] E[CE_y]
                weighted = weighted * self.class_weights
            probabilities = weighted
            if self.smoothing:
                probabilities = (1 - self.smoothing) * weighted + self.smoothing / logits.shape[-1] * weighted.sum(-1, keepdim=True)
            value = -(probabilities * F.log_softmax(at_least_fp32(logits), dim=-1)).sum(-1)
            return torch.where(step.batch.labelled, value, torch.zeros_like(value))
        return cross_entropy_loss(logits, step.batch.labels, self.smoothing, self.class_weights)
