"""Random forest of classification or regression trees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from torch import nn

from transfuse.core.predictors import Forest, not_above
from transfuse.probes.problem import HeadCard, Problem

CARD = HeadCard(
    title="Random forest",
    paper="Breiman, 2001, Machine Learning 45",
    link="https://scikit-learn.org/stable/modules/ensemble.html#random-forests",
    tasks=("classification", "regression"),
    ends="other",
)
LEAVES = [8, 3, 1]


class RandomForest:
    """scikit-learn's random forest.

    Args:
        trees: how many.
        least_in_leaf: samples that a leaf has to hold; a list is chosen among.
    """

    tuned: ClassVar[tuple[str, ...]] = ("least_in_leaf",)

    def __init__(self, trees: Annotated[int, Ge(1)] = 200, least_in_leaf: Annotated[int, Ge(1)] | list[Annotated[int, Ge(1)]] = LEAVES):
        self.trees, self.least_in_leaf = trees, least_in_leaf

    def fit(self, problem: Problem, setting: Mapping[str, Any]) -> nn.Module:
        from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

        classes = problem.task == "classification"
        kind = RandomForestClassifier if classes else RandomForestRegressor
        forest = kind(self.trees, min_samples_leaf=setting["least_in_leaf"], random_state=problem.seed % 2**32, n_jobs=1)
        labels = problem.labels if classes or problem.outputs > 1 else problem.labels[:, 0]
        forest.fit(problem.features, labels)
        columns = np.asarray(forest.classes_) if classes else np.arange(problem.outputs)
        return _module([estimator.tree_ for estimator in forest.estimators_], columns, problem.outputs, classes)


def _module(trees: list[Any], columns: np.ndarray, outputs: int, classes: bool) -> Forest:
    """All trees' nodes one after the other; a leaf leads to itself."""
    counts = [tree.node_count for tree in trees]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    found = Forest(int(sum(counts)), len(trees), max(tree.max_depth for tree in trees), outputs, classes)
    found.roots.copy_(torch.from_numpy(starts))
    for start, tree in zip(starts, trees, strict=True):
        own, part = np.arange(tree.node_count), slice(int(start), int(start) + tree.node_count)
        leaf = tree.children_left < 0
        for buffer, children in ((found.left, tree.children_left), (found.right, tree.children_right)):
            buffer[part] = torch.from_numpy(np.where(leaf, own, children) + start)
        found.column[part] = torch.from_numpy(np.where(leaf, 0, tree.feature))
        found.threshold[part] = torch.from_numpy(not_above(np.where(leaf, 0.0, tree.threshold)))
        values = tree.value[:, 0, :] if classes else tree.value[:, :, 0]
        spread = np.zeros((tree.node_count, outputs), np.float32)
        spread[:, columns] = values / values.sum(1, keepdims=True) if classes else values
        found.values[part] = torch.from_numpy(spread)
    return found
