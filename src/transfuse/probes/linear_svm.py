"""Linear support vector machine: one against all others, squared hinge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge, Gt
from torch import nn

from transfuse.probes._linear import class_rows, layer_of
from transfuse.probes.problem import HeadCard, Problem

CARD = HeadCard(
    title="Linear support vector machine",
    paper="Fan, Chang, Hsieh, Wang, Lin, 2008, JMLR 9 (LIBLINEAR)",
    link="https://www.jmlr.org/papers/v9/fan08a.html",
    margins=True,
)
PENALTIES = [10000.0, 1000.0, 100.0, 10.0, 1.0, 0.1]


class LinearSVM:
    """1/2 |w|^2 + C sum_i max(0, 1 - y_i (w.x_i + b))^2 for each class against the others, with C = 1 / penalty.

    Args:
        penalty: on the squared weights; a list is chosen among.
        iterations: of the optimiser, at most.
    """

    tuned: ClassVar[tuple[str, ...]] = ("penalty",)

    def __init__(
        self,
        penalty: Annotated[float, Gt(0)] | list[Annotated[float, Gt(0)]] = PENALTIES,
        iterations: Annotated[int, Ge(1)] = 2000,
    ):
        self.penalty, self.iterations = penalty, iterations

    def fit(self, problem: Problem, setting: Mapping[str, Any]) -> nn.Module:
        import warnings

        from sklearn.exceptions import ConvergenceWarning
        from sklearn.svm import LinearSVC

        found = LinearSVC(C=1 / setting["penalty"], max_iter=self.iterations, dual="auto", random_state=problem.seed % 2**32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found.fit(problem.features.astype(np.float64), problem.labels)
        return layer_of(*class_rows(np.asarray(found.coef_), np.asarray(found.intercept_), np.asarray(found.classes_), problem.outputs))
