"""Ridge regression, to targets or to one-against-all class marks of -1 and 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Gt
from torch import nn

from transfuse.probes._linear import layer_of
from transfuse.probes.problem import HeadCard, Problem

CARD = HeadCard(
    title="Ridge regression",
    paper="Hoerl, Kennard, 1970, Technometrics 12",
    link="https://scikit-learn.org/stable/modules/linear_model.html#ridge-regression-and-classification",
    tasks=("classification", "multilabel", "regression"),
    margins=True,
)
PENALTIES = [100000.0, 10000.0, 1000.0, 100.0, 10.0, 1.0, 0.1]


class Ridge:
    """|Y - XW - b|^2 + penalty |W|^2, in closed form; the bias is free.

    Classes are fitted as marks of -1 and 1 for each class against the others, as scikit-learn's RidgeClassifier does.

    Args:
        penalty: on the squared weights; a list is chosen among.
    """

    tuned: ClassVar[tuple[str, ...]] = ("penalty",)

    def __init__(self, penalty: Annotated[float, Gt(0)] | list[Annotated[float, Gt(0)]] = PENALTIES):
        self.penalty = penalty

    def fit(self, problem: Problem, setting: Mapping[str, Any]) -> nn.Module:
        from sklearn.linear_model import Ridge as Regression

        labels = problem.labels
        if problem.task == "classification":
            targets = 2.0 * (labels[:, None] == np.arange(problem.outputs)) - 1
        else:
            targets = 2.0 * labels - 1 if problem.task == "multilabel" else labels
        found = Regression(alpha=setting["penalty"]).fit(problem.features.astype(np.float64), targets.astype(np.float64))
        weight = np.atleast_2d(found.coef_)
        return layer_of(weight, np.broadcast_to(np.asarray(found.intercept_, np.float64), (len(weight),)))
