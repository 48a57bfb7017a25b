"""Begins a narrower network with projections of a wider one's neurons: main directions of what they say, or random ones."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core import seeds
from transfuse.core.card import Card
from transfuse.policies.init._carrying import Scale, carry, plan
from transfuse.policies.init._scene import Group, Moved, Scene

CARD = Card(
    title="Projected neurons",
    paper="the PCA of activations: Ashkboos, Croci, do Nascimento, Hoefler, Hensman, SliceGPT, ICLR 2024",
    link="https://arxiv.org/abs/2401.15024",
    level="parameters",
    tasks=("classification", "multilabel", "regression"),
)


def main_directions(second_moment: Float[Tensor, "units units"], count: int) -> Float[Tensor, "count units"]:
    """The orthonormal rows Q that minimise E |x - Q'Qx|^2: eigenvectors of E[x x'] with the largest eigenvalues.

    Their sign is such that the entries of each row sum to something positive.
    """
    rows = torch.linalg.eigh(second_moment.double()).eigenvectors.flip(1).T[:count]
    return rows * torch.where(rows.sum(1, keepdim=True) < 0, -1.0, 1.0)


def random_directions(count: int, of: int, generator: torch.Generator) -> Float[Tensor, "count of"]:
    """Orthonormal rows, uniform over all of them."""
    square, triangle = torch.linalg.qr(torch.randn(of, count, generator=generator, dtype=torch.float64))
    return (square * triangle.diagonal().sign()).T


class Project:
    """theta_small = s * Q_out theta_large Q_in', with one Q [n, N] of orthonormal rows for all layers that share the N units.

    Exact where a linear network's N units lie in n dimensions. Activations, BatchNorm and depthwise layers act on single units and don't
    commute with Q: their parameters v become (Q * Q) v, and what they compute is another function. The scale s is that of `select`.

    Args:
        by: svd: main directions of what the units say on training samples; random: random orthonormal directions.
        scale: measured, fan_in or none.
    """

    def __init__(self, by: Literal["svd", "random"] = "svd", scale: Scale = "measured"):
        self.by = by
        self.scale: Scale = scale

    def __call__(self, source: nn.Module, target: nn.Module, scene: Scene) -> Moved:
        moments = scene.moments(source) if self.by == "svd" else {}

        def matrix(own: Group, other: Group) -> Tensor | None:
            if own.size > other.size:
                return None
            if other.name in moments:
                return main_directions(moments[other.name][1], own.size)
            return random_directions(own.size, other.size, seeds.generator(scene.seed, "projection", other.name))

        return carry(source, target, scene, plan(source, target, scene, matrix, "projected"), self.scale)
