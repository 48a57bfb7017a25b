"""Steps on samples of several labelled sets: each set's loss is taken on its own samples, from its own head or a shared one.

A set's own head belongs to its term, so that terms that pull against each other are told apart by the backbone alone. What is averaged,
chosen and kept is the student with these heads: a head is worth something with the backbone of its own step only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from transfuse.core.tapped import averaged_axes, pooled
from transfuse.core.types import Batch, Signals, Step, float_labels
from transfuse.engine.steppers.supervised import Supervised

Uncertain = Literal["classes", "values"]


class TaskLoss(nn.Module):
    """A label loss on the samples of one set.

    With `uncertain`, the term is exp(-s) L + s/2 for classes and exp(-s) L / 2 + s/2 for values, s = log sigma^2 learnt from 0: Kendall,
    Gal, Cipolla, 2018, CVPR (https://arxiv.org/abs/1705.07115), eq. 7 to 10.

    Args:
        objective: a sample-level label term.
        domain: of the set, as `Batch.domains` has it.
        columns: classes or targets of the set; labels that are floats have more columns where another set has more.
        head: from what the last layer is given to this set's outputs; None: the network's own.
        uncertain: whether, and in which form, the weight is learnt.
    """

    def __init__(self, objective: nn.Module, domain: int, columns: int, head: nn.Module | None = None, uncertain: Uncertain | None = None):
        super().__init__()
        self.objective, self.domain, self.columns, self.head, self.uncertain = objective, domain, columns, head, uncertain
        self.log_variance = nn.Parameter(torch.zeros(())) if uncertain is not None else None

    def forward(self, step: Step) -> Tensor:
        logits = step.student.logits
        if self.head is not None:
            feature = next(iter(step.student.features.values()))
            logits = self.head(pooled(feature, averaged_axes(feature.shape)))
        labels = step.batch.labels
        if float_labels(labels):
            labels = labels[:, : self.columns]
        else:  # another set's class numbers mean nothing here; those samples are masked by whoever averages
            labels = labels.where(self.mask(step.batch), 0)
        values = self.objective(replace(step, batch=replace(step.batch, labels=labels), student=Signals(logits)))
        if self.log_variance is None:
            return values
        factor = 0.5 if self.uncertain == "values" else 1.0
        return factor * torch.exp(-self.log_variance) * values + self.log_variance / 2

    def mask(self, batch: Batch) -> Tensor:
        """bool [batch]: the samples of this set."""
        assert batch.domains is not None
        return batch.domains == self.domain


class WithHeads(nn.Module):
    """A student and other tasks' heads as one module, which answers as the student."""

    def __init__(self, student: nn.Module, heads: Sequence[nn.Module]):
        super().__init__()
        self.student, self.heads = student, nn.ModuleList(heads)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.student(inputs)


class SeveralTasks(Supervised):
    """Terms that are `TaskLoss`es: each is averaged over the samples of its own set in the step."""

    def kept(self) -> nn.Module:
        """The student, with the heads of tasks that have their own."""
        losses = [weighted.objective for weighted in self._weighted if isinstance(weighted.objective, TaskLoss)]
        heads = [loss.head for loss in losses if loss.head is not None]
        return WithHeads(self.student, heads) if heads else self.student

    def defined(self, batch: Batch) -> dict[str, Tensor | None]:
        found = super().defined(batch)
        for weighted in self._weighted:
            mask = found[weighted.name]
            if isinstance(weighted.objective, TaskLoss) and mask is not None:
                found[weighted.name] = mask & weighted.objective.mask(batch)
        return found
