"""Brings the features of different sources to one size, so that none drowns the others; fitted on training features alone.

Both maps are affine, y = M (x - mean), and are given as (mean, M).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from transfuse.errors import ModelError

Standardisation = Literal["phi_s", "whiten", "none"]
Map = tuple[Float[Tensor, "dim"], Float[Tensor, "dim dim"]]
REGULAR = 1e-3  # of the mean variance, added to every direction's before it is whitened


def fit(features: Float[Tensor, "samples dim"], kind: Literal["phi_s", "whiten"]) -> Map:
    """The named map of one source's training features.

    Raises:
        ModelError: the features are the same for all samples, or not finite.
    """
    return phi_s(features) if kind == "phi_s" else whitening(features)


def phi_s(features: Float[Tensor, "samples dim"]) -> Map:
    """PHI-S: M = R U^T / sqrt(mean_j lambda_j), with covariance U diag(lambda) U^T and R a rotation that spreads variance evenly.

    All numbers have variance 1 afterwards, and distances between samples keep their ratios: it is isotropic. R is the normalised Hadamard
    matrix where the width is a power of two, as in Ranzinger, Barker, Heinrich, Molchanov, Catanzaro, Tao, 2024, "PHI-S: Distribution
    Balancing for Label-Free Multi-Teacher Distillation", https://arxiv.org/abs/2410.01680. For other widths, for many of which there is no
    Hadamard matrix, R is made of dim - 1 plane rotations that set one variance to the mean each (Bendel, Mickey, 1978, Communications in
    Statistics B7; Davies, Higham, 2000, BIT 40), which the same theorem allows: only the rotated covariance's equal diagonal matters.

    Raises:
        ModelError: the features are the same for all samples, or not finite.
    """
    mean, values, directions = _spectrum(features)
    rotation = _hadamard(len(values)) if _power_of_two(len(values)) else _evening(values)
    matrix = rotation @ directions.T / values.mean().sqrt()
    return mean.to(features.dtype), matrix.to(features.dtype)


def whitening(features: Float[Tensor, "samples dim"]) -> Map:
    """M = U diag(lambda + r)^-1/2 U^T (ZCA): unit variance in every direction, and each number as close to itself as that allows.

    r = 0.001 mean_j lambda_j keeps directions in which training features hardly vary, as when there are fewer samples than numbers, from
    being blown up. Source: Kessy, Lewin, Strimmer, 2018, The American Statistician 72, https://arxiv.org/abs/1512.00809.

    Raises:
        ModelError: the features are the same for all samples, or not finite.
    """
    mean, values, directions = _spectrum(features)
    scales = (values + REGULAR * values.mean()).rsqrt()
    return mean.to(features.dtype), ((directions * scales) @ directions.T).to(features.dtype)


def _spectrum(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variances along the principal directions (never negative) and these directions as columns, in float64."""
    if not bool(features.isfinite().all()):
        raise ModelError("its features are NaN or infinite for some training samples", fix="check its weights and its preprocess")
    rows = features.detach().double()
    mean = rows.mean(0)
    centred = rows - mean
    values, directions = torch.linalg.eigh(centred.T @ centred / len(rows))
    values = values.clamp(min=0)
    if float(values.mean()) <= 1e-12 * max(1.0, float(mean.square().mean())):
        raise ModelError(f"its features are the same for all {len(rows)} training samples", fix="leave it out, or check its weights")
    return mean, values, directions


def _power_of_two(count: int) -> bool:
    return count & (count - 1) == 0


def _hadamard(count: int) -> Tensor:
    """Sylvester's matrix, orthonormal: all entries are +-1 / sqrt(count)."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < count:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / math.sqrt(count)


def _evening(values: Tensor) -> Tensor:
    """A rotation R with diag(R diag(values) R^T) all equal, made of plane rotations.

    Each takes two places with variances below and above the mean and turns until the first one is the mean, which it then stays.
    """
    count, goal = len(values), float(values.mean())
    covariance, rotation = torch.diag(values), torch.eye(count, dtype=torch.float64)
    left = torch.ones(count, dtype=torch.bool)
    for _ in range(count - 1):
        diagonal = covariance.diagonal()
        low = int(torch.where(left, diagonal, math.inf).argmin())
        high = int(torch.where(left, diagonal, -math.inf).argmax())
        if low == high or float(diagonal[high] - diagonal[low]) <= 1e-14 * goal:
            break
        a, b, c = (float(covariance[places]) for places in ((low, low), (high, high), (low, high)))
        # tangent of the angle at which the first place's variance is the goal: a root of (b - goal) t^2 + 2 c t + (a - goal)
        root = math.sqrt(max(c * c - (a - goal) * (b - goal), 0.0))
        tangent = (goal - a) / (c + math.copysign(root, c)) if c or root else 0.0
        cosine = 1 / math.sqrt(1 + tangent * tangent)
        turn = torch.tensor([[cosine, tangent * cosine], [-tangent * cosine, cosine]], dtype=torch.float64)
        places = torch.tensor([low, high])
        covariance[places] = turn @ covariance[places]
        covariance[:, places] = covariance[:, places] @ turn.T
        rotation[places] = turn @ rotation[places]
        left[low] = False
    return rotation
