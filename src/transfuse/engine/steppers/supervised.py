"""One student, frozen teachers, weighted objectives: the step of distillation and of plain training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from transfuse.core.protocols import Teacher
from transfuse.core.types import Batch, Signals, Step, Term, WeightedObjective
from transfuse.engine.precision import autocast


class Supervised(nn.Module):
    """Runs the student once, asks each teacher once, and evaluates every objective.

    The student runs in the chosen precision, objectives in at least fp32. Teachers are kept out of the module tree: they are neither
    trained nor saved.

    Args:
        student: the network; logits out.
        preprocess: from the shared raw view to the student's inputs.
        objectives: terms of the loss; their modules are trained with the student.
        teachers: by name.
        precision: fp32, bf16 or fp16.
        channels_last: memory layout of 4-D inputs.
        forward: what is called for the student's forward pass; the compiled student, say.
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
    ):
        super().__init__()
        self.student = student
        self.objectives = nn.ModuleList([weighted.objective for weighted in objectives])
        self._weighted = tuple(objectives)
        self._teachers = dict(teachers or {})
        self._preprocess, self._precision, self._channels_last = preprocess, precision, channels_last
        self._forward = (forward,) if forward is not None else ()  # a tuple, so that it is not registered as a second student

    def trained(self) -> nn.Module:
        return self

    def phases(self) -> list[str]:
        return ["all"]

    def batch_level(self) -> list[str]:
        """Objectives that relate the samples of a batch to each other, which splitting a batch would change."""
        return [weighted.name for weighted in self._weighted if weighted.card.level == "batch"]

    def defined(self, batch: Batch) -> dict[str, Tensor | None]:
        """Per term: bool [batch] where it is defined, by what its card needs; None for scalars."""
        covered = {name: teacher.covers(batch.ids) for name, teacher in self._teachers.items()}
        found: dict[str, Tensor | None] = {}
        for weighted in self._weighted:
            if weighted.card.level == "parameters":
                found[weighted.name] = None
                continue
            mask = torch.ones_like(batch.labelled)
            if "labels" in weighted.card.needs or "hard_labels" in weighted.card.needs:
                mask = mask & batch.labelled
            for name in weighted.teachers:
                mask = mask & covered[name].to(mask.device)
            found[weighted.name] = mask
        return found

    def forward(self, batch: Batch, phase: str, progress: float) -> list[Term]:
        return self.terms(batch, phase, progress)

    def terms(self, batch: Batch, phase: str, progress: float) -> list[Term]:
        inputs = self._preprocess(batch.inputs)
        if self._channels_last and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with autocast(self._precision, inputs.device):
            logits = self._forward[0](inputs) if self._forward else self.student(inputs)
        student = Signals(logits.float() if logits.dtype != torch.float64 else logits)
        asked = sorted({name for weighted in self._weighted for name in weighted.teachers})
        answers = {name: self._teachers[name].answers(batch.ids, batch.views, batch.inputs) for name in asked}
        masks = self.defined(batch)
        return [self._term(weighted, batch, student, answers, masks[weighted.name], progress) for weighted in self._weighted]

    def _term(
        self,
        weighted: WeightedObjective,
        batch: Batch,
        student: Signals,
        answers: dict[str, Signals],
        mask: Tensor | None,
        progress: float,
    ) -> Term:
        teachers = {name: answers[name] for name in weighted.teachers}
        step = Step(batch, student, teachers, progress)
        if weighted.card.level == "batch" and mask is not None and not bool(mask.all()):
            step = step.select(mask)  # relations are taken among the samples that have what the objective needs
        values = weighted.objective(step)
        return Term(weighted.name, values, weighted.weight(progress), mask if weighted.card.level == "sample" else None)
