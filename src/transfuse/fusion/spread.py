"""Predictions spread among neighbours: samples that look alike to the sources are taught alike. No label is looked at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from transfuse.core import seeds

MOST_ANCHORS = 20_000  # samples among which neighbours are looked for: distances to all of a large pool would take hours
ROWS = 1024  # whose distances are computed at once


def spread(
    predictions: Float[Tensor, "samples classes"], neighbours: Int[Tensor, "samples k"], share: float = 0.7, rounds: int = 3
) -> Float[Tensor, "samples classes"]:
    """q_i <- (1 - share) p_i + share / k sum_(j in N(i)) q_j, so many rounds, from q = p: probabilities stay probabilities.

    Sources that each know some of the classes are sure of a sample's class among their own, and badly placed to say whose it is: neither
    has seen the other's classes. Mistakes about that differ between samples that look alike, so that neighbours outvote them.

    Source: Zhou, Bousquet, Lal, Weston, Schoelkopf, 2004, "Learning with Local and Global Consistency", NeurIPS 16, whose iteration this
    is, with share as their alpha. Deviations: it starts from what sources say about every sample, not from a few labels; neighbours count
    alike (their weights are Gaussian and normalised on both sides); some rounds, not to the fixed point.

    Args:
        predictions: p, rows that sum to 1.
        neighbours: N(i), rows of `predictions`.
        share: of the neighbours.
        rounds: how far a prediction can travel, in neighbours.
    """
    found = predictions
    for _ in range(rounds):
        found = (1 - share) * predictions + share * found[neighbours].mean(1)
    return found


def neighbours_of(features: Float[Tensor, "samples dim"], count: int, seed: int = 0) -> Int[Tensor, "samples k"]:
    """The `count` nearest other samples of every sample; of a pool of more than 20,000 among so many of them, drawn with the seed."""
    samples = len(features)
    if samples > MOST_ANCHORS:
        anchors = torch.randperm(samples, generator=seeds.generator(seed, "spread"))[:MOST_ANCHORS].sort().values
    else:
        anchors = torch.arange(samples)
    shown = features[anchors]
    count = min(count, len(anchors) - 1)
    found = []
    for rows in torch.arange(samples).split(ROWS):
        distances = torch.cdist(features[rows], shown)
        distances[rows[:, None] == anchors] = torch.inf  # nobody is their own neighbour
        found.append(anchors[distances.topk(count, largest=False).indices])
    return torch.cat(found)


def side_by_side(features: Sequence[Float[Tensor, "samples _"]]) -> Float[Tensor, "samples dim"]:
    """Every source's features, each number standardised, sources weighing alike in squared distances whatever their width."""
    return torch.cat([(one - one.mean(0)) / (one.std(0) + 1e-6) / one.shape[1] ** 0.5 for one in features], 1)


def agreement(predictions: Float[Tensor, "samples classes"], neighbours: Int[Tensor, "samples k"]) -> float:
    """The share of neighbours that are predicted to be of the same class."""
    classes = predictions.argmax(1)
    return float((classes[neighbours] == classes[:, None]).double().mean())
