"""The proof kit on an objective with features and a bridge: what is right passes, what is planted is found."""

from dataclasses import replace
from typing import Annotated

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from annotated_types import Gt
from torch import Tensor, nn

from tests.reference.features import mean_pool
from transfuse.core.card import Card
from transfuse.core.types import Step
from transfuse.testing import ObjectiveDefect, Particulars, Sizes, check_objective, example_step

CARD = Card(
    title="Hints",
    paper="Romero et al., 2015",
    link="https://arxiv.org/abs/1412.6550",
    level="sample",
    needs=("teacher.features",),
    cost="a bridge",
)


def hint_loss(student_features: Tensor, teacher_features: Tensor, factor: float = 1.0) -> Tensor:
    student, teacher = (at_least_fp32(values) for values in (student_features, teacher_features.detach()))
    if student.shape[-2:] != teacher.shape[-2:]:
        teacher = F.adaptive_avg_pool2d(teacher, student.shape[-2:])
    return factor * (student - teacher).square().mean((1, 2, 3))


def at_least_fp32(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


class Hint(nn.Module):
    """Squared difference of bridged features.

    Args:
        factor: of the value.
    """

    def __init__(self, factor: Annotated[float, Gt(0)] = 1.0):
        super().__init__()
        self.factor = factor

    def build(self, student_shapes: dict[str, tuple[int, ...]], teacher_shapes: dict[str, tuple[int, ...]]) -> None:
        (student,), (teacher,) = student_shapes.values(), teacher_shapes.values()
        self.bridge = nn.Sequential(nn.Conv2d(student[1], teacher[1], 1, bias=False), nn.BatchNorm2d(teacher[1]))

    def bridged(self, step: Step) -> tuple[Tensor, Tensor]:
        (student,), (teacher,) = step.student.features.values(), step.teacher.features.values()
        student = at_least_fp32(student)
        return self.bridge(student), teacher

    def forward(self, step: Step) -> Tensor:
        return hint_loss(*self.bridged(step), self.factor)


def hint_reference(student_features, teacher_features, state, factor):
    weight = state["bridge.0.weight"][:, :, 0, 0]
    teacher_features = mean_pool(teacher_features, *student_features.shape[2:])
    values = []
    for student, teacher in zip(student_features, teacher_features, strict=True):
        bridged = np.einsum("oi,ihw->ohw", weight, student)
        for channel in range(len(bridged)):
            mean, variance = state["bridge.1.running_mean"][channel], state["bridge.1.running_var"][channel]
            scale, shift = state["bridge.1.weight"][channel], state["bridge.1.bias"][channel]
            bridged[channel] = (bridged[channel] - mean) / np.sqrt(variance + 1e-5) * scale + shift
        values.append(factor * ((bridged - teacher) ** 2).mean())
    return values


PARTICULARS = Particulars(function=lambda objective, step: hint_loss(*objective.bridged(step), objective.factor))


def prove(objective_class, check, **settings):
    check_objective(objective_class, hint_reference, checks=[check], particulars=PARTICULARS, **settings)


def test_a_right_objective_with_a_bridge_passes_every_check():
    check_objective(Hint, hint_reference, {"factor": 2.0}, particulars=PARTICULARS)


class UnequalSizesCrash(Hint):
    def forward(self, step: Step) -> Tensor:
        student, teacher = self.bridged(step)
        return (student - teacher.detach()).square().mean((1, 2, 3))


class ResizedWrongly(Hint):
    """What peers do in a hurry: the nearest position instead of the mean over the area; right wherever sizes are equal."""

    def forward(self, step: Step) -> Tensor:
        student, teacher = self.bridged(step)
        return hint_loss(student, F.interpolate(teacher.detach(), size=student.shape[-2:], mode="nearest"), self.factor)


class TeacherIsTrained(Hint):
    def forward(self, step: Step) -> Tensor:
        student, teacher = self.bridged(step)
        return (student - teacher).square().mean((1, 2, 3))


class BridgeInAList(Hint):
    def build(self, student_shapes, teacher_shapes):
        self.bridges = [nn.Conv2d(6, 6, 1)]

    def bridged(self, step: Step) -> tuple[Tensor, Tensor]:
        (student,), (teacher,) = step.student.features.values(), step.teacher.features.values()
        return self.bridges[0](student.float()), teacher.float()


class FirstStatisticsOnly(Hint):
    """BatchNorm's statistics in a plain attribute: a resumed run would start over."""

    def forward(self, step: Step) -> Tensor:
        if self.training:
            self.scale = 0.5
        return super().forward(step) * getattr(self, "scale", 1.0)


class SecretLogits(Hint):
    def forward(self, step: Step) -> Tensor:
        return super().forward(step) + step.teacher.logits.detach().square().mean(-1)


class MapsInHalfPrecision(Hint):
    def forward(self, step: Step) -> Tensor:
        (student,), (teacher,) = step.student.features.values(), step.teacher.features.values()
        return (student - teacher).square().mean((1, 2, 3)).float()


@pytest.mark.parametrize(
    ("objective_class", "check"),
    [
        (UnequalSizesCrash, "small"),
        (ResizedWrongly, "small"),
        (TeacherIsTrained, "gradient_flow"),
        (BridgeInAList, "saved"),
        (FirstStatisticsOnly, "saved"),
        (SecretLogits, "needs"),
        (MapsInHalfPrecision, "extreme"),
    ],
)
def test_a_planted_defect_is_found(objective_class, check):
    prove(Hint, check)
    with pytest.raises(ObjectiveDefect) as found:
        prove(objective_class, check)
    assert found.value.check == check


def test_zero_at_equality_needs_a_bridge_that_changes_nothing():
    def identity(objective, step):
        objective.bridge = nn.Identity()

    settings = {"zero_at_equality": True, "checks": ["equality"]}
    check_objective(Hint, hint_reference, particulars=replace(PARTICULARS, prepare=identity), **settings)
    with pytest.raises(ObjectiveDefect, match="instead of 0"):
        check_objective(Hint, hint_reference, particulars=PARTICULARS, **settings)


def test_several_taps_reach_references_as_lists():
    seen = []

    def reference(student_features, teacher_features):
        seen.append((len(student_features), len(teacher_features)))
        return [0.0] * len(student_features[0])

    class Zero(Hint):
        def build(self, student_shapes, teacher_shapes):
            assert list(student_shapes) == ["stage1", "stage2"]

        def forward(self, step: Step) -> Tensor:
            return 0 * step.student.logits.sum(-1)

    check_objective(Zero, reference, make_step=lambda sizes: example_step(sizes, taps=2), checks=["value"])
    assert seen == [(2, 2), (2, 2)]


def test_an_example_step_depends_on_its_seed_alone():
    one, same, other = (example_step(Sizes(seed=seed), taps=1) for seed in (0, 0, 1))
    assert torch.equal(one.student.features["stage1"], same.student.features["stage1"])
    assert not torch.equal(one.student.features["stage1"], other.student.features["stage1"])
