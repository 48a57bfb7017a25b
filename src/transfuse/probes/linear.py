"""A linear layer, fitted in torch to the task's label loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from annotated_types import Ge
from torch import nn

from transfuse.probes._descent import newton_like
from transfuse.probes.problem import HeadCard, Problem

CARD = HeadCard(
    title="Linear layer (linear probe)",
    paper="Alain, Bengio, 2016, arXiv",
    link="https://arxiv.org/abs/1610.01644",
    tasks=("classification", "multilabel", "regression"),
)
PENALTIES = [1000.0, 100.0, 10.0, 1.0, 0.1, 0.01]


class Linear:
    """sum_i loss_i + penalty/2 |W|^2 by L-BFGS in float64; for classes the solution is that of logistic regression.

    Args:
        penalty: on the squared weights; a list is chosen among.
        iterations: of the optimiser, at most.
    """

    tuned: ClassVar[tuple[str, ...]] = ("penalty",)

    def __init__(
        self, penalty: Annotated[float, Ge(0)] | list[Annotated[float, Ge(0)]] = PENALTIES, iterations: Annotated[int, Ge(1)] = 200
    ):
        self.penalty, self.iterations = penalty, iterations

    def fit(self, problem: Problem, setting: Mapping[str, Any]) -> nn.Module:
        layer = nn.Linear(problem.features.shape[1], problem.outputs)
        newton_like(layer, problem, setting["penalty"], self.iterations)
        return layer
