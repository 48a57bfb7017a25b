"""Domain-adversarial training: a discriminator tells the domains apart, and the student learns features on which it can't."""

from typing import Annotated

import torch.nn.functional as F
from annotated_types import Ge, Gt
from jaxtyping import Float, Int
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32
from transfuse.core.ranks import gather_rows
from transfuse.core.types import Step
from transfuse.objectives._vectors import last_tap, vectors
from transfuse.objectives.domains._adversary import feature_width, opponent, reversed_gradient, strength_at
from transfuse.objectives.domains._marks import all_domains, shares

CARD = Card(
    title="Domain-adversarial training (DANN)",
    paper="Ganin et al., 2016, JMLR",
    link="https://arxiv.org/abs/1505.07818",
    level="batch",
    needs=("domains",),
    paper_weight=1.0,
    tasks=("classification", "multilabel", "regression"),
    cost="a discriminator of three linear layers, trained with the student",
)


def dann_loss(domain_logits: Float[Tensor, "batch"], domains: Int[Tensor, "batch"]) -> Float[Tensor, ""]:
    """1/2 [mean over source of -log d + mean over target of -log(1 - d)], d = sigmoid(domain_logits): binary cross-entropy in nats.

    Each domain counts half, however many samples it has; the paper adds the two means, which is twice this. A batch without both domains
    adds 0. The discriminator descends this value; features climb it, see `DANN`.

    Raises:
        ValueError: a single sample, which is of one domain only.
    """
    logits = at_least_fp32(domain_logits)
    source, target = shares(domains, logits)
    return 0.5 * (source @ F.softplus(-logits) + target @ F.softplus(logits))


class DANN(nn.Module):
    """A discriminator on the deepest tapped feature, whose gradient reaches the student times -strength (gradient reversal).

    strength = highest * (2 / (1 + exp(-rise * progress)) - 1), progress from 0 to 1 as in the paper.

    Args:
        hidden: width of the discriminator's two hidden layers.
        highest: what the reversal's strength grows to.
        rise: how fast it grows.
    """

    def __init__(self, hidden: Annotated[int, Ge(1)] = 1024, highest: Annotated[float, Gt(0)] = 1.0, rise: Annotated[float, Gt(0)] = 10.0):
        super().__init__()
        self.hidden, self.highest, self.rise = hidden, highest, rise
        self.discriminator = nn.Sequential()

    def build(self, student_shapes: dict[str, tuple[int, ...]], teacher_shapes: dict[str, tuple[int, ...]]) -> None:
        """Makes the discriminator.

        Raises:
            ValueError: nothing is tapped.
        """
        self.discriminator = opponent(feature_width(student_shapes), self.hidden, outputs=1)

    def forward(self, step: Step) -> Tensor:
        rows = gather_rows(vectors(last_tap(step.student, "student")))
        rows = reversed_gradient(rows, strength_at(step.progress, self.highest, self.rise))
        return dann_loss(self.discriminator(rows)[:, 0], all_domains(step))
