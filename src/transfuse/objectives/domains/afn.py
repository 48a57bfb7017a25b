"""Adaptive feature norm: features of both domains grow, as those do that transfer."""

from typing import Annotated, Literal

import torch
from annotated_types import Gt
from jaxtyping import Float, Int
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.ranks import gather_rows
from transfuse.core.types import Step
from transfuse.objectives._vectors import last_tap, vectors
from transfuse.objectives.domains._marks import all_domains, shares

Form = Literal["stepwise", "hard"]
CARD = Card(
    title="Adaptive feature norm (SAFN, HAFN)",
    paper="Xu, Li, Yang, Lin, 2019, ICCV",
    link="https://arxiv.org/abs/1811.07456",
    level="batch",
    needs=("student.features", "domains"),
    paper_weight=0.05,
    tasks=("classification", "multilabel", "regression"),
    cost="nothing beyond the student's own step",
)


def afn_loss(
    student_features: Float[Tensor, "batch *inner"],
    domains: Int[Tensor, "batch"],
    form: Form = "stepwise",
    increase: float = 1.0,
    radius: float = 25.0,
) -> Float[Tensor, ""]:
    """Sum over the two domains; r_i = |f_i|.

    stepwise: mean_i (r_i - (r_i' + increase))^2, r_i' the value of r_i without gradient: every norm is pushed up by a fixed step. Its
    value is constant by construction; only its gradient teaches. hard: (mean_i r_i - radius)^2. r_i' is taken in this step, as in the
    authors' code; the paper speaks of the parameters of the step before. A batch without both domains adds 0. Maps are averaged over
    space.

    Raises:
        ValueError: a single sample, which is of one domain only.
    """
    rows = vectors(student_features)
    norms = torch.linalg.vector_norm(rows, dim=1)
    both = shares(domains, rows)
    if form == "hard":
        terms = [share.sum() * (share @ norms - radius).square() for share in both]
    else:
        terms = [share @ (norms - (norms.detach() + increase)).square() for share in both]
    return terms[0] + terms[1]


class AFN(nn.Module):
    """Norms of the deepest tapped feature in both domains.

    Args:
        form: stepwise (SAFN, the paper's better one) or hard (HAFN).
        increase: by how much stepwise wants every norm larger.
        radius: the mean norm that hard wants.
    """

    def __init__(self, form: Form = "stepwise", increase: Annotated[float, Gt(0)] = 1.0, radius: Annotated[float, Gt(0)] = 25.0):
        super().__init__()
        self.form: Form = form
        self.increase, self.radius = increase, radius

    def forward(self, step: Step) -> Tensor:
        return afn_loss(gather_rows(vectors(last_tap(step.student, "student"))), all_domains(step), self.form, self.increase, self.radius)
