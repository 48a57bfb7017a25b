"""Conditional domain-adversarial training: the discriminator sees features together with what the student predicts from them."""

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from jaxtyping import Float, Int
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32, log_softmax_at
from transfuse.core.ranks import gather_rows
from transfuse.core.types import Step
from transfuse.objectives._vectors import last_tap, vectors
from transfuse.objectives.domains._adversary import feature_width, opponent, reversed_gradient, strength_at
from transfuse.objectives.domains._marks import all_domains, shares

EXACT_UP_TO = 4096  # entries of the outer product, as in the authors' code
CARD = Card(
    title="Conditional domain-adversarial training (CDAN, CDAN+E)",
    paper="Long, Cao, Wang, Jordan, 2018, NeurIPS",
    link="https://arxiv.org/abs/1705.10667",
    level="batch",
    needs=("domains",),
    paper_weight=1.0,
    tasks=("classification",),
    cost="a discriminator of three linear layers on width x classes inputs, trained with the student",
)


def cdan_loss(
    domain_logits: Float[Tensor, "batch"],
    student_logits: Float[Tensor, "batch classes"],
    domains: Int[Tensor, "batch"],
    entropy: bool = True,
) -> Float[Tensor, ""]:
    """1/2 [sum over source of v_i (-log d_i) + sum over target of v_i (-log(1 - d_i))], d = sigmoid(domain_logits), in nats.

    With entropy (CDAN+E) v_i is w_i = 1 + exp(-H_i) divided by its sum over the domain, H the entropy of the softmax prediction:
    samples of which the student is sure count more. Without, v_i = 1 / n. As in the authors' code the weights have no gradient. A batch
    without both domains adds 0.

    Raises:
        ValueError: a single class, whose prediction says nothing; a single sample, which is of one domain only.
    """
    if student_logits.shape[-1] < 2:
        raise ValueError("a softmax over one logit is always 1, so there is nothing to condition on; use dann")
    logits, log_p = at_least_fp32(domain_logits), log_softmax_at(student_logits.detach())
    certainty = 1 + torch.exp((log_p.exp() * log_p).sum(1)) if entropy else torch.ones_like(logits)
    weights = [certainty * share for share in shares(domains, logits)]
    source, target = (weight / torch.where(weight.sum() > 0, weight.sum(), 1.0) for weight in weights)
    return 0.5 * (source @ F.softplus(-logits) + target @ F.softplus(logits))


class CDAN(nn.Module):
    """A discriminator on the outer product of the deepest tapped feature and the softmax prediction, with gradient reversal.

    The product reaches the student through the feature only, as in the authors' code. Where it has more than 4096 entries, both factors
    go through fixed random matrices to `random_width` numbers first and are multiplied elementwise. The strength of the reversal is
    highest * (2 / (1 + exp(-rise * progress)) - 1).

    Args:
        entropy: count samples by the student's certainty (CDAN+E).
        hidden: width of the discriminator's two hidden layers.
        random_width: how many random features stand for a large product.
        highest: what the reversal's strength grows to.
        rise: how fast it grows.
    """

    def __init__(
        self,
        entropy: bool = True,
        hidden: Annotated[int, Ge(1)] = 1024,
        random_width: Annotated[int, Ge(1)] = 1024,
        highest: Annotated[float, Gt(0)] = 1.0,
        rise: Annotated[float, Gt(0)] = 10.0,
    ):
        super().__init__()
        self.entropy, self.hidden, self.random_width = entropy, hidden, random_width
        self.highest, self.rise = highest, rise
        self.outputs = 0
        self.discriminator = nn.Sequential()
        self.feature_projection: Tensor | None
        self.prediction_projection: Tensor | None
        self.register_buffer("feature_projection", None)
        self.register_buffer("prediction_projection", None)

    def set_outputs(self, outputs: int) -> None:
        """Takes note of the number of classes."""
        self.outputs = outputs

    def build(self, student_shapes: dict[str, tuple[int, ...]], teacher_shapes: dict[str, tuple[int, ...]]) -> None:
        """Makes the discriminator and, for large products, the random matrices.

        Raises:
            ValueError: nothing is tapped, or the number of classes is not known yet.
        """
        if not self.outputs:
            raise ValueError("the discriminator's size depends on the number of classes; call set_outputs(classes) before build")
        width = feature_width(student_shapes)
        inputs = width * self.outputs
        if inputs > EXACT_UP_TO:
            inputs = self.random_width
            self.feature_projection = torch.randn(width, inputs)
            self.prediction_projection = torch.randn(self.outputs, inputs) / inputs**0.5
        self.discriminator = opponent(inputs, self.hidden, outputs=1)

    def forward(self, step: Step) -> Tensor:
        rows, logits = gather_rows(vectors(last_tap(step.student, "student"))), gather_rows(step.student.logits)
        rows = reversed_gradient(rows, strength_at(step.progress, self.highest, self.rise))
        predictions = log_softmax_at(logits.detach()).exp()
        if self.feature_projection is not None and self.prediction_projection is not None:
            joint = (rows @ self.feature_projection) * (predictions @ self.prediction_projection)
        else:
            joint = (rows[:, :, None] * predictions[:, None, :]).flatten(1)
        return cdan_loss(self.discriminator(joint)[:, 0], logits, all_domains(step), self.entropy)
