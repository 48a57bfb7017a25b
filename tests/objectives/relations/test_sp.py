"""Similarity-preserving against the formula, its invariances, and rows normalised in another norm."""

import pytest
import torch
import torch.nn.functional as F

from tests.objectives.planting import assert_caught
from tests.objectives.relations.steps import narrow_student, rotated_student, scaled_student
from tests.reference.sp import sp_reference
from transfuse.objectives.relations.sp import SP, sp_loss
from transfuse.testing import check_objective

FACTS = {"one factor for all samples cancels": scaled_student, "dot products ignore rotations": rotated_student}


def test_sp_is_proved():
    check_objective(SP, sp_reference, zero_at_equality=True, invariance=FACTS)


def test_features_of_unlike_widths_are_compared_without_a_bridge():
    check_objective(SP, sp_reference, make_step=narrow_student, invariance=FACTS, checks=["value", "invariance", "gradient"])


def similarities(features, norm):
    rows = features.flatten(1)
    return F.normalize(rows @ rows.T, p=norm, dim=1)


def loss(step, norm):
    teacher = next(iter(step.teacher.features.values())).detach()
    return similarities(step.student.features["stage1"], norm) - similarities(teacher, norm)


def test_the_planted_formula_is_right_with_l2_rows():
    check_objective(
        SP,
        lambda student_features, teacher_features: float(
            (similarities(torch.tensor(student_features), 2) - similarities(torch.tensor(teacher_features), 2)).square().mean()
        ),
        checks=["value"],
    )


def test_rows_normalised_in_l1_are_caught():
    assert_caught(SP, lambda self, step: loss(step, 1).square().mean(), sp_reference)


def test_a_norm_that_is_not_squared_is_caught():
    assert_caught(SP, lambda self, step: loss(step, 2).norm() / len(step.batch), sp_reference)


def test_a_single_sample_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="at least two"):
        sp_loss(torch.randn(1, 4), torch.randn(1, 4))
