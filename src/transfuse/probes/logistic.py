"""Logistic regression: multinomial for classes, one per class where several can be true; penalty on the squared weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge, Gt
from torch import nn

from transfuse.probes._linear import NEVER, class_rows, layer_of
from transfuse.probes.problem import HeadCard, Problem

CARD = HeadCard(
    title="Logistic regression",
    paper="Cox, 1958, J. R. Stat. Soc. B 20",
    link="https://scikit-learn.org/stable/modules/linear_model.html#logistic-regression",
    tasks=("classification", "multilabel"),
)
PENALTIES = [1000.0, 100.0, 10.0, 1.0, 0.1, 0.01]


class Logistic:
    """sum_i nll_i + penalty/2 |W|^2, by scikit-learn's L-BFGS; the bias is free, C = 1 / penalty.

    Args:
        penalty: on the squared weights; a list is chosen among.
        iterations: of the optimiser, at most.
    """

    tuned: ClassVar[tuple[str, ...]] = ("penalty",)

    def __init__(
        self,
        penalty: Annotated[float, Gt(0)] | list[Annotated[float, Gt(0)]] = PENALTIES,
        iterations: Annotated[int, Ge(1)] = 1000,
    ):
        self.penalty, self.iterations = penalty, iterations

    def fit(self, problem: Problem, setting: Mapping[str, Any]) -> nn.Module:
        if problem.task == "classification":
            return layer_of(*self._rows(problem.features, problem.labels, setting["penalty"], problem.outputs))
        weight = np.zeros((problem.outputs, problem.features.shape[1]))
        bias = np.zeros(problem.outputs)
        for number, column in enumerate(problem.labels.T.astype(np.int64)):
            if column.min() == column.max():
                bias[number] = -NEVER if column[0] else NEVER
                continue
            rows, biases = self._rows(problem.features, column, setting["penalty"], 2)
            weight[number], bias[number] = rows[1] - rows[0], biases[1] - biases[0]
        return layer_of(weight, bias)

    def _rows(self, features: np.ndarray, labels: np.ndarray, penalty: float, outputs: int) -> tuple[np.ndarray, np.ndarray]:
        import warnings

        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        found = LogisticRegression(C=1 / penalty, max_iter=self.iterations)
        with warnings.catch_warnings():  # nearly free weights run off along separable classes: still a solution to choose against
            warnings.simplefilter("ignore", ConvergenceWarning)
            found.fit(features.astype(np.float64), labels)
        return class_rows(np.asarray(found.coef_), np.asarray(found.intercept_), np.asarray(found.classes_), outputs)
