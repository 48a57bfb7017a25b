"""Relational distillation against the formula, its invariances, and features brought to unit length."""

import pytest
import torch

from tests.objectives.planting import assert_caught
from tests.objectives.relations.steps import moved_student, narrow_student, rotated_student, scaled_student, with_student
from tests.reference.rkd import rkd_reference
from transfuse.core.types import Step
from transfuse.objectives._vectors import unit, vectors
from transfuse.objectives.relations.rkd import RKD, rkd_loss
from transfuse.testing import QUICK, Sizes, check_objective, example_step, run

FACTS = {
    "distances are taken relative to their mean": scaled_student,
    "distances and angles ignore rotations": rotated_student,
    "distances and angles ignore shifts": moved_student,
}


def test_rkd_is_proved():
    check_objective(RKD, rkd_reference, zero_at_equality=True, invariance=FACTS)


@pytest.mark.parametrize("arguments", [{"angle": 0.0}, {"distance": 0.0, "angle": 2.0}], ids=str)
def test_distances_and_angles_are_proved_alone(arguments):
    check_objective(RKD, rkd_reference, arguments, zero_at_equality=True, invariance=FACTS, checks=QUICK)


def test_features_of_unlike_widths_are_compared():
    check_objective(RKD, rkd_reference, make_step=narrow_student, checks=["value", "gradient"])


def test_features_of_unit_length_are_caught():
    def wrong(self, step):
        return rkd_loss(unit(vectors(step.student.features["stage1"])), unit(vectors(step.teacher.features["stage1"])))

    assert_caught(RKD, wrong, rkd_reference)


def test_a_sample_that_is_there_twice_has_a_gradient_of_ordinary_size():
    def twice(step: Step) -> Step:
        feature = step.student.features["stage1"].clone()
        feature[1] = feature[0]
        return with_student(step, feature)

    step = twice(example_step(Sizes(), taps=1))
    gradient = run(RKD(), step).gradients["student.features.stage1"]
    assert gradient is not None
    assert gradient.abs().max() < 100


def test_a_batch_without_relations_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="at least three"):
        rkd_loss(torch.randn(2, 4), torch.randn(2, 4))
    with pytest.raises(ValueError, match="nothing is compared"):
        rkd_loss(torch.randn(4, 4), torch.randn(4, 4), distance=0.0, angle=0.0)
