"""Margin disparity discrepancy: a second head disagrees with the student on the target but not on the source; features prevent it."""

from typing import Annotated

import torch.nn.functional as F
from annotated_types import Ge, Gt
from jaxtyping import Float, Int
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import log_softmax_at
from transfuse.core.ranks import gather_rows
from transfuse.core.types import Step
from transfuse.objectives._vectors import last_tap, vectors
from transfuse.objectives.domains._adversary import feature_width, opponent, reversed_gradient, strength_at
from transfuse.objectives.domains._marks import all_domains, shares

CARD = Card(
    title="Margin disparity discrepancy (MDD)",
    paper="Zhang, Liu, Long, Jordan, 2019, ICML",
    link="https://arxiv.org/abs/1904.05801",
    level="batch",
    needs=("domains",),
    paper_weight=1.0,
    tasks=("classification",),
    cost="a second head of two linear layers, trained with the student",
)


def mdd_loss(
    adversary_logits: Float[Tensor, "batch classes"],
    student_logits: Float[Tensor, "batch classes"],
    domains: Int[Tensor, "batch"],
    margin: float = 4.0,
) -> Float[Tensor, ""]:
    """margin * mean over source of -log q_y - mean over target of log(1 - q_y), y the student's predicted class, q the adversary's softmax.

    This is what the adversary descends, the paper's discrepancy with the opposite sign; features climb it, see `MDD`. In the log domain
    throughout, so that a certain adversary gives no infinity and needs no floor. A batch without both domains adds 0.

    Raises:
        ValueError: a single class, on which nobody can disagree; a single sample, which is of one domain only.
    """
    classes = student_logits.shape[-1]
    if classes < 2:
        raise ValueError("two heads can't disagree about a single class; mdd needs two logits or more")
    predicted = F.one_hot(student_logits.detach().argmax(1), classes).bool()
    log_q = log_softmax_at(adversary_logits)
    agree = log_q.masked_fill(~predicted, 0.0).sum(1)
    disagree = log_q.masked_fill(predicted, -float("inf")).logsumexp(1)
    source, target = shares(domains, log_q)
    return -margin * source @ agree - target @ disagree


class MDD(nn.Module):
    """An adversarial head on the deepest tapped feature, whose gradient reaches the student times -strength (gradient reversal).

    strength = highest * (2 / (1 + exp(-rise * progress)) - 1). The student's own head is not touched by this term: labels on the source
    train it, through another objective.

    Args:
        margin: weight of agreeing on the source; 2 to 4 in the paper.
        hidden: width of the head's hidden layer.
        highest: what the reversal's strength grows to; 0.1 in the authors' code.
        rise: how fast it grows.
    """

    def __init__(
        self,
        margin: Annotated[float, Gt(0)] = 4.0,
        hidden: Annotated[int, Ge(1)] = 1024,
        highest: Annotated[float, Gt(0)] = 0.1,
        rise: Annotated[float, Gt(0)] = 10.0,
    ):
        super().__init__()
        self.margin, self.hidden, self.highest, self.rise = margin, hidden, highest, rise
        self.outputs = 0
        self.adversary = nn.Sequential()

    def set_outputs(self, outputs: int) -> None:
        """Takes note of the number of classes."""
        self.outputs = outputs

    def build(self, student_shapes: dict[str, tuple[int, ...]], teacher_shapes: dict[str, tuple[int, ...]]) -> None:
        """Makes the adversarial head.

        Raises:
            ValueError: nothing is tapped, or the number of classes is not known yet.
        """
        if not self.outputs:
            raise ValueError("the adversarial head has one output per class; call set_outputs(classes) before build")
        self.adversary = opponent(feature_width(student_shapes), self.hidden, self.outputs, layers=1)

    def forward(self, step: Step) -> Tensor:
        rows = gather_rows(vectors(last_tap(step.student, "student")))
        rows = reversed_gradient(rows, strength_at(step.progress, self.highest, self.rise))
        return mdd_loss(self.adversary(rows), gather_rows(step.student.logits), all_domains(step), self.margin)
