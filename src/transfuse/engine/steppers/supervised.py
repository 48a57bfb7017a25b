"""One student, frozen teachers, weighted objectives: the step of distillation and of plain training."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32
from transfuse.core.protocols import Teacher
from transfuse.core.stages import prepared_parts
from transfuse.core.taps import Taps
from transfuse.core.types import Batch, Signals, Step, Term, WeightedObjective
from transfuse.engine.asked import asked_of, of_two_views
from transfuse.engine.loader import SecondView
from transfuse.engine.precision import autocast
from transfuse.engine.rotations import taken_apart, with_turns
from transfuse.engine.teacher_cache.cached import CachedTeacher
from transfuse.engine.teacher_cache.teachers import LiveTeacher, asked_live, with_features


class Supervised(nn.Module):
    """Runs the student once, asks each teacher once, and evaluates every objective.

    The student runs in the chosen precision, objectives in at least fp32. Teachers are kept out of the module tree: they are neither
    trained nor saved. Features that objectives tap come from the same forward passes; `engine.features.connect` finds their paths. Where
    an objective needs rotations, the student sees all four turns of a batch in one pass, and the others its upright part. What an earlier
    stage prepared stays as it is.

    Args:
        student: the network; logits out.
        preprocess: from the shared raw view to the student's inputs.
        objectives: terms of the loss; their modules are trained with the student.
        teachers: by name.
        precision: fp32, bf16 or fp16.
        channels_last: memory layout of 4-D inputs.
        forward: what is called for the student's forward pass; the compiled student, say.
        second: the same samples in another view, for objectives that need two; says who answers about it where that are others.
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
        super().__init__()
        self.student = student
        self.objectives = nn.ModuleList([weighted.objective for weighted in objectives])
        self._weighted = tuple(objectives)
        self._teachers = ready(teachers or {}, objectives)
        self._kept = tuple(part.requires_grad_(False) for weighted in objectives for part in prepared_parts(weighted.objective))
        self._preprocess, self._precision, self._channels_last = preprocess, precision, channels_last
        self._second, self._doubled = second, of_two_views(objectives)
        others = second.own_teachers(asked_of(self._doubled)) if isinstance(second, SecondView) else None
        self._teachers_of_second = self._teachers if others is None else ready(others, self._doubled)
        self._forward = (forward,) if forward is not None else ()  # a tuple, so that it is not registered as a second student
        self._student_taps = tuple(dict.fromkeys(path for weighted in objectives for path in weighted.student_taps))
        self._taps: Taps | None = None  # made with the first batch, on its device

    def train(self, mode: bool = True) -> Supervised:
        super().train(mode)
        for part in self._kept:
            part.eval()
        return self

    def trained(self) -> nn.Module:
        return self

    def phases(self) -> list[str]:
        return ["all"]

    def trains(self, phase: str) -> Collection[nn.Parameter] | None:
        return None

    def clipped(self) -> list[list[nn.Module]]:
        return [[self]]

    def network(self) -> nn.Module:
        """The student itself: where taps find its features and objectives its weights."""
        return self.student

    def batch_level(self) -> list[str]:
        """Objectives that relate the samples of a batch to each other, which splitting a batch would change."""
        return [weighted.name for weighted in self._weighted if weighted.card.level == "batch"]

    def partial(self) -> bool:
        """Whether some weights get no gradient: the last layers, where all terms look at inner features alone."""
        return all(inner_only(weighted.card) for weighted in self._weighted)

    def look(self) -> str | None:
        """Which teacher's answers on a GPU were NaN so far, in words; None where they were none. Waits for the GPU."""
        for name, teacher in (*self._teachers.items(), *self._teachers_of_second.items()):
            live = getattr(teacher, "live", teacher)
            if isinstance(live, LiveTeacher) and (bad := live.look()):
                return f"a teacher's answer is NaN for {bad} of {live.forwards} samples of '{name}'"
        return None

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
        return self._students_terms(self._look(batch, self._weighted, progress), self.defined(batch))

    def _students_terms(self, step: Step, masks: Mapping[str, Tensor | None]) -> list[Term]:
        if self._doubled:
            if self._second is None:
                raise ValueError(f"{self._doubled[0].name} needs a second view of each sample")
            step.second = self._look(self._second(step.batch), self._doubled, step.progress, self._teachers_of_second)
        return [self._term(weighted, step, masks[weighted.name]) for weighted in self._weighted]

    def _look(
        self, batch: Batch, asking: Sequence[WeightedObjective], progress: float, teachers: Mapping[str, Teacher] | None = None
    ) -> Step:
        """One forward pass of the student and the answers of all teachers that these objectives ask."""
        teachers = self._teachers if teachers is None else teachers
        turning = [weighted for weighted in asking if "rotations" in weighted.card.needs]
        seen = with_turns(batch) if turning else batch
        student = self._students_signals(seen)
        answers = {}
        for name in sorted({name for weighted in asking for name in weighted.teachers}):
            shown = seen if any(name in weighted.teachers for weighted in turning) else batch
            answers[name] = answered(teachers[name], shown)
        return taken_apart(seen, student, answers, progress) if turning else Step(batch, student, answers, progress)

    def _students_signals(self, batch: Batch) -> Signals:
        return self._signals(self._prepared(batch, self._preprocess))

    def _prepared(self, batch: Batch, preprocess: Callable[[Tensor], Tensor]) -> Tensor:
        """A network's inputs from the shared raw view."""
        inputs = preprocess(batch.inputs)
        return inputs.contiguous(memory_format=torch.channels_last) if self._channels_last and inputs.ndim == 4 else inputs

    def _signals(self, inputs: Tensor) -> Signals:
        """The student's forward pass; with features where an objective taps some."""
        if self._student_taps and self._taps is None:
            compiled = bool(self._forward) and isinstance(self._forward[0], torch._dynamo.OptimizedModule)
            self._taps = Taps(self.network(), self._student_taps, inputs[:1], compile=compiled)
        with autocast(self._precision, inputs.device):
            if self._taps is not None:
                logits, features = self._taps(inputs)
                return Signals(at_least_fp32(logits), features)
            return Signals(at_least_fp32(self._forward[0](inputs) if self._forward else self.student(inputs)))

    def _term(self, weighted: WeightedObjective, step: Step, mask: Tensor | None) -> Term:
        """One objective's values, from the teachers and the taps that the recipe gave it."""
        # whether a mask is full is seen on the device, and waiting for that costs time in each step: only where it can have gaps
        seen = seen_by(weighted, step, self.network(), mask if _may_miss(weighted, self._teachers) else None)
        values = self._values(weighted, seen)
        return Term(weighted.name, values, weighted.weight(step.progress), mask if weighted.card.level == "sample" else None)

    def _values(self, weighted: WeightedObjective, step: Step) -> Tensor:
        return weighted.objective(step)


def answered(teacher: Teacher, batch: Batch) -> Signals:
    """What a teacher says about a batch."""
    if isinstance(teacher, CachedTeacher):
        return teacher.about(batch)
    return teacher.answers(batch.ids, batch.views, batch.inputs)


def ready(teachers: Mapping[str, Teacher], objectives: Sequence[WeightedObjective]) -> dict[str, Teacher]:
    """Teachers as these objectives ask them: with features, and live about rotations, which no cache holds."""
    tapped = asked_of(objectives)
    turned = {name for weighted in objectives if "rotations" in weighted.card.needs for name in weighted.teachers}
    return {
        name: with_features(asked_live(teacher) if name in turned else teacher, tapped.get(name, ())) for name, teacher in teachers.items()
    }


def _may_miss(weighted: WeightedObjective, teachers: Mapping[str, Teacher]) -> bool:
    """Whether an objective may be undefined for some samples: those without the label that it needs, or that a table doesn't cover."""
    needs_labels = bool({"labels", "hard_labels"} & set(weighted.card.needs))
    return needs_labels or not all(isinstance(teachers[name], (LiveTeacher, CachedTeacher)) for name in weighted.teachers)


def inner_only(card: Card) -> bool:
    """Whether an objective looks at inner features and not at what the network says."""
    features = {"student.features", "teacher.features"} & set(card.needs)
    return bool(features) and not {"labels", "hard_labels", "teacher.logits", "teacher.logits.dense"} & set(card.needs)


def seen_by(weighted: WeightedObjective, step: Step, network: nn.Module, mask: Tensor | None) -> Step:
    """What one objective is shown of a step: the teachers and taps that the recipe gave it, and what its card needs beside them.

    Args:
        weighted: the objective, connected.
        step: with the signals of all teachers and all taps.
        network: the student, whose parameters objectives on weights are given.
        mask: bool [batch] where the term is defined; None for terms on weights, and where it is known to be defined for all.
    """
    seen = _given(step, weighted)
    seen.second = _given(step.second, weighted) if step.second and "two_views" in weighted.card.needs else None
    seen.rotations = tuple(_given(turned, weighted) for turned in step.rotations) if "rotations" in weighted.card.needs else ()
    if weighted.card.level == "batch" and mask is not None and not bool(mask.all()):
        seen = seen.select(mask)  # relations are taken among the samples that have what the objective needs
    if weighted.card.level == "parameters" or "student.head" in weighted.card.needs:
        seen = replace(seen, parameters=dict(network.named_parameters()))
    return seen


def _given(step: Step, weighted: WeightedObjective) -> Step:
    teachers = {name: _tapped(step.teachers[name], weighted.taps_of(name)) for name in weighted.teachers}
    return replace(step, student=_tapped(step.student, weighted.student_taps), teachers=teachers, second=None, rotations=())


def _tapped(signals: Signals, paths: tuple[str, ...]) -> Signals:
    return replace(signals, features={path: signals.features[path] for path in paths})
