"""What a head is given, what it says of itself, and the protocol that it follows."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from torch import nn

from transfuse.core.card import TaskName

Ends = Literal["linear", "mlp", "other"]


@dataclass(frozen=True)
class HeadCard:
    """Facts about one head.

    Args:
        title: the name people know it by.
        paper: authors, year, venue.
        link: where to read it.
        tasks: what it can be fitted to.
        ends: what the shipped network ends in; `other` is a module of `core.predictors`, for which exporters have no layer.
        margins: whether its outputs are distances from a boundary, so that a factor has to be fitted before a softmax of them means
            anything.
    """

    title: str
    paper: str = ""
    link: str = ""
    tasks: tuple[TaskName, ...] = ("classification",)
    ends: Ends = "linear"
    margins: bool = False


@dataclass
class Problem:
    """Prepared features and what to learn from them.

    Attributes:
        features: float32 [rows, width].
        labels: int64 [rows], float32 [rows, classes] of 0 and 1, or float32 [rows, targets] in standard deviations from the mean.
        task: which of the three.
        outputs: classes or targets.
        seed: of whatever is random in the fit.
    """

    features: np.ndarray
    labels: np.ndarray
    task: TaskName
    outputs: int
    seed: int = 0

    def select(self, rows: np.ndarray) -> Problem:
        return Problem(self.features[rows], self.labels[rows], self.task, self.outputs, self.seed)


class Head(Protocol):
    """A file's class; `tuned` names the settings that may be lists, and lists go from the strongest restraint to the weakest."""

    tuned: ClassVar[tuple[str, ...]]

    def fit(self, problem: Problem, setting: Mapping[str, Any]) -> nn.Module:
        """float32 module: prepared features -> logits, or standardised targets.

        Args:
            problem: what to learn from.
            setting: one value for each name in `tuned`.
        """
        ...


def settings(head: Head) -> list[dict[str, Any]]:
    """Every combination of a head's tuned values, the strongest restraint first."""
    lists: list[Sequence[Any]] = []
    for name in head.tuned:
        value = getattr(head, name)
        lists.append(value if isinstance(value, (list, tuple)) else [value])
    return [dict(zip(head.tuned, values, strict=True)) for values in itertools.product(*lists)]
