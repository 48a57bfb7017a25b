"""The k nearest training samples vote, or are averaged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from torch import nn

from transfuse.core.predictors import NearestNeighbours
from transfuse.probes.problem import HeadCard, Problem

CARD = HeadCard(
    title="k nearest neighbours",
    paper="Cover, Hart, 1967, IEEE Trans. Inf. Theory 13",
    link="https://scikit-learn.org/stable/modules/neighbors.html",
    tasks=("classification", "multilabel", "regression"),
    ends="other",
)
NEIGHBOURS = [50, 20, 10, 5, 3, 1]


class KNN:
    """The votes (or the mean target) of the nearest samples by Euclidean distance; there is nothing to fit, they are remembered.

    Args:
        neighbours: how many; a list is chosen among. More than there are samples means all of them.
    """

    tuned: ClassVar[tuple[str, ...]] = ("neighbours",)

    def __init__(self, neighbours: Annotated[int, Ge(1)] | list[Annotated[int, Ge(1)]] = NEIGHBOURS):
        self.neighbours = neighbours

    def fit(self, problem: Problem, setting: Mapping[str, Any]) -> nn.Module:
        samples, width = problem.features.shape
        k = min(setting["neighbours"], samples)
        found = NearestNeighbours(samples, width, problem.outputs, k, problem.task == "classification")
        values = problem.labels
        if problem.task == "classification":
            values = (values[:, None] == np.arange(problem.outputs)).astype(np.float32)
        elif problem.task == "multilabel":  # marks of -1 and 1: more than half of the votes is above 0
            values = 2.0 * values - 1
        found.points.copy_(torch.from_numpy(problem.features))
        found.values.copy_(torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)))
        return found
