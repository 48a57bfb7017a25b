"""Minimum class confusion: on the target's samples, the student's doubts don't spread over pairs of classes."""

from typing import Annotated

import torch
from annotated_types import Gt
from jaxtyping import Float, Int
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import log_softmax_at
from transfuse.core.ranks import gather_rows
from transfuse.core.types import Step
from transfuse.objectives.domains._marks import all_domains, target_mask

CARD = Card(
    title="Minimum class confusion (MCC)",
    paper="Jin, Wang, Long, Wang, 2020, ECCV",
    link="https://arxiv.org/abs/1912.03699",
    level="batch",
    needs=("domains",),
    paper_weight=1.0,
    tasks=("classification",),
    cost="one product [classes, batch] x [batch, classes]",
)


def mcc_loss(student_logits: Float[Tensor, "batch classes"], domains: Int[Tensor, "batch"], temperature: float = 2.5) -> Float[Tensor, ""]:
    """1/|classes| sum_{j != k} |C_jk| / sum_k' |C_jk'|, C = P^T diag(w) P over the target samples (domain 1).

    P is their softmax at the temperature, w_i = n (1 + exp(-H_i)) / sum_i' (1 + exp(-H_i')), H the entropy of P_i in nats: certain
    predictions count more. As in the authors' code the weights have no gradient. 0 without target samples.

    Raises:
        ValueError: a single class; temperature not positive.
    """
    classes = student_logits.shape[-1]
    if classes < 2 or temperature <= 0:
        raise ValueError(f"{classes} classes at temperature {temperature}; confusion needs two classes or more and a positive temperature")
    log_p = log_softmax_at(student_logits, temperature)
    p, mask = log_p.exp(), target_mask(domains, log_p)
    weights = mask * (1 + torch.exp((p * log_p).sum(1))).detach()
    total = weights.sum()
    weights = mask.sum() * weights / torch.where(total > 0, total, 1.0)
    confusion = (p * weights[:, None]).T @ p
    rows = confusion.sum(1, keepdim=True)
    # a class that nobody gives any probability has no row; nor has one whose square, by which the gradient is divided, is rounded to 0
    confusion = confusion / torch.where(rows > torch.finfo(rows.dtype).tiny ** 0.5, rows, 1.0)
    # trace() would do, but its gradient waits for the GPU
    return (confusion.sum() - confusion.diagonal().sum()) / classes


class MCC(nn.Module):
    """Confusion among the target's samples of all processes.

    Args:
        temperature: softens the predictions; 2.5 in the paper.
    """

    def __init__(self, temperature: Annotated[float, Gt(0)] = 2.5):
        super().__init__()
        self.temperature = temperature

    def forward(self, step: Step) -> Tensor:
        return mcc_loss(gather_rows(step.student.logits), all_domains(step), self.temperature)
