"""What a fitted rule says about samples that it was not fitted on, so that rules can be compared on the data that fits them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from transfuse.core.card import TaskName

FOLDS = 5


class Fitted(Protocol):
    """A rule: see `fusion.output_rule.OutputRule`."""

    def fit(self, outputs: Tensor, labels: Tensor) -> None: ...

    def fuse(self, outputs: Tensor) -> Tensor: ...


def out_of_fold(make: Callable[[], Fitted], outputs: Tensor, labels: Tensor, task: TaskName, seed: int = 0) -> Tensor:
    """[samples, outputs]: each fold's answers by a rule that was fitted on the other folds.

    Args:
        make: a new rule, not fitted yet.
        outputs: [sources, samples, outputs].
        labels: of the samples, all of them labelled.
        task: what they mean.
        seed: of the folds.
    """
    answers = torch.full(outputs.shape[1:], torch.nan)
    for fitting, held_out in folds(labels, task, seed):
        rule = make()
        rule.fit(outputs[:, fitting], labels[fitting])
        answers[held_out] = rule.fuse(outputs[:, held_out]).to(answers)
    return answers


def folds(labels: Tensor, task: TaskName, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """(indices to fit on, indices held out), five times; each class spread evenly, as far as it has samples for that."""
    from sklearn.model_selection import KFold, StratifiedKFold

    count = min(FOLDS, len(labels))
    splitter: Any = KFold(count, shuffle=True, random_state=seed)
    if task == "classification":
        rarest = int(np.unique(labels.numpy(), return_counts=True)[1].min())
        if rarest >= 2:
            splitter = StratifiedKFold(min(count, rarest), shuffle=True, random_state=seed)
    for fitting, held_out in splitter.split(np.zeros(len(labels)), labels.numpy() if task == "classification" else None):
        yield torch.from_numpy(fitting), torch.from_numpy(held_out)
