"""Mutual learning: networks that train side by side and each learn from what the others say now."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Gt
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import kl_divergence
from transfuse.core.types import Step
from transfuse.objectives.outputs._divergence import Distribution, Kind, kind_of, merged_logits, soft_divergence

Mean = Literal["losses", "probabilities"]
Update = Literal["simultaneous", "alternate"]

CARD = Card(
    title="Deep mutual learning (DML)",
    paper="Zhang, Xiang, Hospedales, Lu, 2018, CVPR",
    link="https://arxiv.org/abs/1706.00384",
    level="sample",
    needs=("peers",),
    paper_weight=1.0,
    tasks=("classification", "multilabel"),
    cost="training every peer beside the student",
)


def dml_loss(
    student_logits: Float[Tensor, "batch classes"],
    peers_logits: Sequence[Float[Tensor, "batch classes"]],
    temperature: float = 1.0,
    distribution: Kind = "softmax",
    combine: Mean = "losses",
) -> Float[Tensor, "batch"]:
    """T^2 * 1/(K-1) * sum_l KL(p_l || q) per sample, q the prediction of the network that learns, p_l those of its K - 1 peers, in nats.

    That is the paper's equation (8); combine="probabilities" is its DML_e: T^2 * KL(1/(K-1) * sum_l p_l || q). The peers' predictions are
    constants here: each network is moved by its own loss alone, as in the paper. The paper has T = 1; T^2 keeps the gradient's size as T
    grows. The authors' code sums over the peers where the paper takes their mean (with more than two networks that is a weight of K - 1)
    and adds 1e-8 to the probabilities, which the logarithms here don't need.

    Raises:
        ValueError: there is no peer, temperature is not positive, a softmax over a single logit, other numbers of outputs.
    """
    if not peers_logits:
        raise ValueError("mutual learning needs at least one peer, and the step has none")
    if combine == "probabilities" and len(peers_logits) > 1:
        equal = student_logits.new_full((len(peers_logits), len(student_logits)), 1 / len(peers_logits))
        merged = merged_logits(peers_logits, equal, combine, temperature, distribution)
        return temperature**2 * soft_divergence(kl_divergence, student_logits, merged, temperature, distribution)
    each = [soft_divergence(kl_divergence, student_logits, logits, temperature, distribution) for logits in peers_logits]
    return temperature**2 * torch.stack(each).mean(0)


class DML(nn.Module):
    """Learns from the current predictions of the peers that train beside the student; they learn from it and from each other likewise.

    Args:
        temperature: softens all predictions; the paper has 1.
        distribution: softmax for one label per sample, bernoulli for multilabel and single-logit heads; auto decides by the labels.
        combine: with several peers, the mean of the losses against each (the paper's DML), or the loss against the mean of their
            probabilities (its DML_e).
        update: simultaneous moves all networks at once from one forward pass each, which is the usual practice and the cheapest. alternate
            is the paper's algorithm: one network after the other, each from what the updated ones say about the same batch; with K networks
            it takes K forward passes of each. The authors' code alternates too, but draws a new batch for every network.
    """

    def __init__(
        self,
        temperature: Annotated[float, Gt(0)] = 1.0,
        distribution: Distribution = "auto",
        combine: Mean = "losses",
        update: Update = "simultaneous",
    ):
        super().__init__()
        self.temperature = temperature
        self.distribution: Distribution = distribution
        self.combine: Mean = combine
        self.update: Update = update

    def forward(self, step: Step) -> Tensor:
        peers_logits = [signals.logits for signals in step.peers.values()]
        return dml_loss(step.student.logits, peers_logits, self.temperature, kind_of(self.distribution, step), self.combine)
