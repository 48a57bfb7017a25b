"""Binary cross-entropy with several independent labels per sample, some of which may be unknown."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32
from transfuse.core.types import Step

CARD = Card(
    title="Binary cross-entropy",
    paper="logistic regression: Cox, 1958, J. Royal Statistical Society B",
    link="https://www.jstor.org/stable/2983890",
    level="sample",
    needs=("labels",),
    paper_weight=1.0,
    tasks=("multilabel",),
    cost="none",
)


def bce_loss(
    student_logits: Float[Tensor, "batch classes"],
    labels: Float[Tensor, "batch classes"],
    smoothing: float = 0.0,
    positive_weights: Float[Tensor, "classes"] | None = None,
    over: Literal["sum", "mean"] = "sum",
) -> Float[Tensor, "batch"]:
    """-sum_c [w_c y_c log sigmoid(z_c) + (1 - y_c) log sigmoid(-z_c)] per sample, in nats, with y = (1 - smoothing) label + smoothing / 2.

    Summed over a sample's known labels (the negative log-likelihood, which compares with kd's bernoulli form), or their mean. Unknown
    labels (NaN) add nothing; a sample with none gives 0.

    Raises:
        ValueError: positive_weights has not one entry per class.
    """
    if positive_weights is not None and len(positive_weights) != student_logits.shape[-1]:
        raise ValueError(f"positive_weights has {len(positive_weights)} entries for {student_logits.shape[-1]} classes; give one per class")
    student_logits = at_least_fp32(student_logits)
    known = ~labels.isnan()
    targets = torch.where(known, labels, torch.zeros_like(labels)).to(student_logits.dtype) * (1 - smoothing) + smoothing / 2
    terms = F.binary_cross_entropy_with_logits(student_logits, targets, pos_weight=positive_weights, reduction="none")
    total = torch.where(known, terms, torch.zeros_like(terms)).sum(-1)
    return total if over == "sum" else total / known.sum(-1).clamp(min=1)


class BCE(nn.Module):
    """Binary cross-entropy with multi-hot labels.

    Args:
        smoothing: moves labels towards 1/2; 0 trusts them.
        positive_weights: one factor per class for its positive labels, in class order, for rare classes.
        over: sum or mean over a sample's known labels.
    """

    positive_weights: Tensor | None

    def __init__(
        self,
        smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0,
        positive_weights: list[Annotated[float, Ge(0)]] | None = None,
        over: Literal["sum", "mean"] = "sum",
    ):
        super().__init__()
        self.smoothing = smoothing
        self.over: Literal["sum", "mean"] = over
        self.register_buffer("positive_weights", torch.tensor(positive_weights) if positive_weights else None, persistent=False)

    def forward(self, step: Step) -> Tensor:
        labels = step.batch.labels
        if step.batch.label_probabilities is not None:  # mixed labels: the expectation over them; unknown ones stay unknown
            labels = torch.where(labels.isnan(), labels, step.batch.label_probabilities.to(labels.dtype))
        if not labels.is_floating_point() or labels.shape != step.student.logits.shape:
            shapes = f"{labels.dtype} {list(labels.shape)}, logits {list(step.student.logits.shape)}"
            raise ValueError(f"bce needs one number between 0 and 1 per sample and class as labels, not {shapes}; use cross_entropy")
        return bce_loss(step.student.logits, labels, self.smoothing, self.positive_weights, self.over)
