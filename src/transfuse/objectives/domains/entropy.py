"""Entropy minimisation: the student makes up its mind about the target's samples."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import log_softmax_at
from transfuse.core.ranks import gather_rows
from transfuse.core.types import Step
from transfuse.objectives.domains._marks import all_domains, target_mask

CARD = Card(
    title="Entropy minimisation",
    paper="Grandvalet, Bengio, 2004, NIPS",
    link="https://papers.nips.cc/paper/2740-semi-supervised-learning-by-entropy-minimization",
    level="batch",
    needs=("domains",),
    paper_weight=0.1,
    tasks=("classification",),
    cost="nothing beyond the student's own step",
)


def entropy_loss(student_logits: Float[Tensor, "batch classes"], domains: Int[Tensor, "batch"]) -> Float[Tensor, ""]:
    """Mean over the target samples (domain 1) of H(p) = -sum_c p_c log p_c, p the softmax prediction, in nats; 0 without target samples.

    The paper has no fixed weight; 0.1 is a usual one.

    Raises:
        ValueError: a single class, whose prediction is always certain.
    """
    if student_logits.shape[-1] < 2:
        raise ValueError("a softmax over one logit is always 1 and its entropy 0; entropy needs two logits or more")
    log_p = log_softmax_at(student_logits)
    mask = target_mask(domains, log_p)
    return mask @ -(log_p.exp() * log_p).sum(1) / mask.sum().clamp(min=1)


class Entropy(nn.Module):
    """Entropy of the predictions on the target's samples of all processes."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, step: Step) -> Tensor:
        return entropy_loss(gather_rows(step.student.logits), all_domains(step))
