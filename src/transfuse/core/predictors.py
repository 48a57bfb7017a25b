"""Predictors that are no usual layers (neighbours, kernels, trees) as modules, so that a network can end in one and be saved."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn


class Scaled(nn.Module):
    """(x - mean) / std, per column.

    Args:
        width: columns.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.width = width
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def forward(self, inputs: Float[Tensor, "batch width"]) -> Float[Tensor, "batch width"]:
        return (inputs - self.mean) / self.std


class NearestNeighbours(nn.Module):
    """The mean of the k nearest samples' values, by Euclidean distance; ties of distance go to the sample that comes first.

    Of classes, the logarithm of their share of the votes, with one more vote spread over all of them: log((v_c + 1/C) / (k + 1)).

    Args:
        samples: how many are remembered.
        width: columns.
        outputs: classes or targets.
        neighbours: k.
        classes: whether values are votes for classes.
    """

    points: Tensor
    values: Tensor

    def __init__(self, samples: int, width: int, outputs: int, neighbours: int, classes: bool):
        super().__init__()
        self.samples, self.width, self.outputs, self.neighbours, self.classes = samples, width, outputs, neighbours, classes
        self.register_buffer("points", torch.zeros(samples, width))
        self.register_buffer("values", torch.zeros(samples, outputs))

    def forward(self, inputs: Float[Tensor, "batch width"]) -> Float[Tensor, "batch outputs"]:
        nearest = squared_distances(inputs, self.points).topk(self.neighbours, largest=False).indices
        mean = self.values[nearest].mean(1)
        return smoothed_log_shares(mean, self.neighbours) if self.classes else mean


class KernelMachine(nn.Module):
    """sum_i a_i exp(-gamma |x - s_i|^2) + b, for each output.

    Args:
        samples: support vectors.
        width: columns.
        outputs: classes or targets.
        gamma: of the kernel.
    """

    points: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, samples: int, width: int, outputs: int, gamma: float):
        super().__init__()
        self.samples, self.width, self.outputs, self.gamma = samples, width, outputs, gamma
        self.register_buffer("points", torch.zeros(samples, width))
        self.register_buffer("weight", torch.zeros(samples, outputs))
        self.register_buffer("bias", torch.zeros(outputs))

    def forward(self, inputs: Float[Tensor, "batch width"]) -> Float[Tensor, "batch outputs"]:
        return torch.exp(-self.gamma * squared_distances(inputs, self.points)) @ self.weight + self.bias


class Forest(nn.Module):
    """The mean of what decision trees say; of classes, the logarithm of their shares as in `NearestNeighbours`.

    Args:
        nodes: of all trees together.
        trees: how many.
        depth: of the deepest.
        outputs: classes or targets.
        classes: whether leaves hold shares of classes.
    """

    roots: Tensor
    left: Tensor
    right: Tensor
    column: Tensor
    threshold: Tensor
    values: Tensor

    def __init__(self, nodes: int, trees: int, depth: int, outputs: int, classes: bool):
        super().__init__()
        self.nodes, self.trees, self.depth, self.outputs, self.classes = nodes, trees, depth, outputs, classes
        self.register_buffer("roots", torch.zeros(trees, dtype=torch.int64))
        for name in ("left", "right", "column"):
            self.register_buffer(name, torch.zeros(nodes, dtype=torch.int64))
        self.register_buffer("threshold", torch.zeros(nodes))
        self.register_buffer("values", torch.zeros(nodes, outputs))

    def forward(self, inputs: Float[Tensor, "batch width"]) -> Float[Tensor, "batch outputs"]:
        places = self.roots.expand(len(inputs), -1)
        for _ in range(self.depth):  # a leaf's children are itself
            lower = inputs.gather(1, self.column[places]) <= self.threshold[places]
            places = torch.where(lower, self.left[places], self.right[places])
        mean = self.values[places].mean(1)
        return smoothed_log_shares(mean, self.trees) if self.classes else mean


def squared_distances(inputs: Float[Tensor, "batch width"], points: Float[Tensor, "samples width"]) -> Float[Tensor, "batch samples"]:
    """|x - p|^2 of every pair, by differences: the expansion into products loses the small ones to rounding."""
    return torch.cdist(inputs, points, compute_mode="donot_use_mm_for_euclid_dist").square()


def smoothed_log_shares(shares: Float[Tensor, "batch outputs"], votes: int) -> Float[Tensor, "batch outputs"]:
    """log((votes p_c + 1/C) / (votes + 1)): finite where nobody voted, the order of the shares, and a sum of 1."""
    return torch.log((votes * shares + 1 / shares.shape[1]) / (votes + 1))


def not_above(values: np.ndarray) -> np.ndarray:
    """float32: the largest one that is not above each float64, so that x <= t means the same for every float32 x."""
    rounded = values.astype(np.float32)
    return np.where(rounded > values, np.nextafter(rounded, np.float32(-np.inf)), rounded)
