"""The step in which an objective prepares parts of its own on what the teachers say; the student waits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from transfuse.core.protocols import Teacher
from transfuse.core.types import Batch, Signals, Step, WeightedObjective
from transfuse.engine.steppers.supervised import Supervised


class Preparation(Supervised):
    """Trains the parts alone, by the objective's `prepare(step)`; the step's student has said nothing.

    Args:
        student: the parts, which stand where a student stands elsewhere.
        preprocess: not used, since no student runs.
        objectives: the one whose parts they are; it is neither trained nor saved beyond them.
        teachers: by name.
        precision, channels_last, forward, second: as in `Supervised`; only `second` is looked at.
    """

    def __init__(
        self,
        student: nn.Module,
        preprocess: Callable[[Tensor], Tensor],
        objectives: Sequence[WeightedObjective],
        teachers: Mapping[str, Teacher] | None = None,
        precision: str = "fp32",
        channels_last: bool = False,
        forward: Callable[[Tensor], Tensor] | None = None,
        second: Callable[[Batch], Batch] | None = None,
    ):
        alone = [replace(weighted, weight=lambda progress: 1.0, student_taps=()) for weighted in objectives]
        super().__init__(student, preprocess, alone, teachers, precision, second=second)
        self.objectives = nn.ModuleList()
        self._kept = ()
        student.requires_grad_(True)

    def partial(self) -> bool:
        return False

    def _students_signals(self, batch: Batch) -> Signals:
        return Signals(torch.zeros(len(batch), 0, device=batch.ids.device))

    def _values(self, weighted: WeightedObjective, step: Step) -> Tensor:
        return weighted.objective.prepare(step)  # type: ignore[operator]
