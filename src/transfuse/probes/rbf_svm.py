"""Support vector machine with a Gaussian kernel: one against all others, or epsilon-insensitive regression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Gt
from torch import nn

from transfuse.core.predictors import KernelMachine
from transfuse.probes.problem import HeadCard, Problem

CARD = HeadCard(
    title="Support vector machine with a Gaussian kernel",
    paper="Chang, Lin, 2011, ACM TIST 2 (LIBSVM)",
    link="https://www.csie.ntu.edu.tw/~cjlin/libsvm/",
    tasks=("classification", "regression"),
    ends="other",
    margins=True,
)
PENALTIES = [1.0, 0.1, 0.01]
GAMMAS = [0.3, 1.0, 3.0]


class RbfSVM:
    """Support vector machine on k(x, y) = exp(-gamma |x - y|^2), with C = 1 / penalty.

    scikit-learn's own SVC decides between classes pair by pair; here each class stands against all others, so that there is one output
    per class.

    Args:
        penalty: on the squared norm; a list is chosen among.
        gamma: in units of 1 / (width * variance of all entries), which scikit-learn calls "scale"; a list is chosen among.
    """

    tuned: ClassVar[tuple[str, ...]] = ("penalty", "gamma")

    def __init__(
        self,
        penalty: Annotated[float, Gt(0)] | list[Annotated[float, Gt(0)]] = PENALTIES,
        gamma: Annotated[float, Gt(0)] | list[Annotated[float, Gt(0)]] = GAMMAS,
    ):
        self.penalty, self.gamma = penalty, gamma

    def fit(self, problem: Problem, setting: Mapping[str, Any]) -> nn.Module:
        features = problem.features.astype(np.float64)
        gamma = float(setting["gamma"] / (features.shape[1] * max(features.var(), 1e-12)))
        columns = problem.labels.T if problem.task == "regression" else problem.labels == np.arange(problem.outputs)[:, None]
        fits = [self._fit(features, column, gamma, 1 / setting["penalty"], problem.task == "regression") for column in columns]
        used = np.unique(np.concatenate([rows for rows, _, _ in fits]))
        found = KernelMachine(len(used), features.shape[1], problem.outputs, gamma)
        found.points.copy_(torch.from_numpy(problem.features[used]))
        for output, (rows, weights, bias) in enumerate(fits):
            found.weight[torch.from_numpy(np.searchsorted(used, rows)), output] = torch.from_numpy(weights).float()
            found.bias[output] = bias
        return found

    def _fit(
        self, features: np.ndarray, column: np.ndarray, gamma: float, inverse: float, regression: bool
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Rows of the support vectors, their coefficients, and the bias; none of the first where there is a single class."""
        from sklearn.svm import SVC, SVR

        if not regression and column.min() == column.max():
            return np.empty(0, np.int64), np.empty(0), 1.0 if column[0] else -1.0
        kind: Any = SVR if regression else SVC  # whose types know "scale" and "auto" only
        found = kind(C=inverse, gamma=gamma)
        found.fit(features, column)
        return found.support_.astype(np.int64), np.asarray(found.dual_coef_)[0], float(found.intercept_[0])
