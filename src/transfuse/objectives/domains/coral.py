"""Correlation alignment: features of source and target have the same covariance."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.ranks import gather_rows
from transfuse.core.types import Step
from transfuse.objectives._vectors import last_tap, vectors
from transfuse.objectives.domains._marks import all_domains, shares, without_own

CARD = Card(
    title="Deep CORAL",
    paper="Sun, Saenko, 2016, ECCV Workshops",
    link="https://arxiv.org/abs/1607.01719",
    level="batch",
    needs=("student.features", "domains"),
    paper_weight=1.0,
    tasks=("classification", "multilabel", "regression"),
    cost="two products [width, batch] x [batch, width]",
)


def coral_loss(student_features: Float[Tensor, "batch *inner"], domains: Int[Tensor, "batch"]) -> Float[Tensor, ""]:
    """|| C_s - C_t ||_F^2 / (4 d^2), C the covariance of a domain's features (divided by n - 1), d their width.

    Covariances don't see means: what also compares those is another loss. The domains may have different numbers of samples; a batch
    without two of each adds 0. Maps are averaged over space.

    Raises:
        ValueError: fewer than four samples, among which there can't be two of each domain.
    """
    rows = vectors(student_features)
    source, target = (_covariance(rows, share) for share in shares(domains, rows, least=2))
    return (source - target).square().sum() / (4 * rows.shape[1] ** 2)


def _covariance(rows: Float[Tensor, "batch width"], share: Float[Tensor, "batch"]) -> Float[Tensor, "width width"]:
    centred = rows - share @ rows
    return without_own((share > 0).to(share.dtype).sum()) * (centred * share[:, None]).T @ centred


class CORAL(nn.Module):
    """Covariances of the deepest tapped feature in both domains, within the batch of all processes."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, step: Step) -> Tensor:
        return coral_loss(gather_rows(vectors(last_tap(step.student, "student"))), all_domains(step))
