"""Begins a narrower network with some of a wider one's neurons: the same ones in every layer that shares them."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.policies.init._carrying import Scale, carry, plan
from transfuse.policies.init._pairing import spread
from transfuse.policies.init._scene import Group, Moved, Scene

CARD = Card(
    title="Weight selection",
    paper="Xu, Chen, Vishniakov, Yin, Shen, Darrell, Liu, Liu, Initializing Models with Larger Ones, ICLR 2024",
    link="https://arxiv.org/abs/2311.18823",
    level="parameters",
    tasks=("classification", "multilabel", "regression"),
)


def chosen_units(scores: Float[Tensor, "units"], count: int) -> Int[Tensor, "count"]:
    """The units with the largest scores, in their own order; of equal ones the first."""
    order = torch.sort(scores, descending=True, stable=True).indices
    return order[:count].sort().values


def uniform_units(count: int, of: int) -> Int[Tensor, "count"]:
    """Units evenly spaced, the first and the last among them."""
    return torch.tensor(spread(count, of))


def norms_of_units(network: nn.Module, group: Group) -> Float[Tensor, "units"]:
    """The L2 norm of the weights that make each unit of a group, over all layers that make it."""
    state = network.state_dict()
    total = torch.zeros(group.size, dtype=torch.float64)
    for part in group.parts:
        value = state[part.tensor]
        if part.learnt and value.ndim > 1 and not part.consumes:
            piece = value.double().movedim(part.axis, 0).narrow(0, part.start, part.outer * group.size * part.inner)
            total += piece.reshape(part.outer, group.size, part.inner, -1).square().sum((0, 2, 3))
    return total.sqrt()


class Select:
    """theta_small = s * theta_large[chosen], with one choice of units for all layers that share them (residual streams, depthwise
    convolutions, BatchNorm), and layers of deeper stacks dropped evenly.

    Scale s: summing over n of N inputs makes what a layer computes vary less. `measured` scales each unit so that its output varies as the
    source's unit does on training samples, layer by layer in the order in which they run, and moves its mean there where it has a bias;
    `fan_in` multiplies a layer by sqrt(N / n), which does so for independent inputs of equal variance. BatchNorm statistics are estimated
    anew. The paper selects without a scale.

    Args:
        by: uniform: evenly spaced units (the paper's); norm: those with the largest L2 norm of the weights that make them; activations:
            those with the largest mean square of what they say, on training samples.
        scale: measured, fan_in or none.
    """

    def __init__(self, by: Literal["uniform", "norm", "activations"] = "norm", scale: Scale = "measured"):
        self.by = by
        self.scale: Scale = scale

    def __call__(self, source: nn.Module, target: nn.Module, scene: Scene) -> Moved:
        moments = scene.moments(source) if self.by == "activations" else {}

        def matrix(own: Group, other: Group) -> Tensor | None:
            if own.size > other.size:
                return None
            if self.by == "uniform":
                return uniform_units(own.size, other.size)
            if self.by == "activations" and other.name in moments:
                return chosen_units(moments[other.name][1].diagonal(), own.size)
            return chosen_units(norms_of_units(source, other), own.size)

        return carry(source, target, scene, plan(source, target, scene, matrix, "selected"), self.scale)
