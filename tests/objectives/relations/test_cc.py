"""Correlation congruence against the paper's kernels, and the other loss that goes by its name."""

import pytest
import torch

from tests.objectives.planting import assert_caught
from tests.objectives.relations.steps import narrow_student, rotated_student, scaled_student
from tests.reference.cc import cc_reference
from transfuse.objectives.relations.cc import CC, cc_loss
from transfuse.testing import QUICK, check_objective

FACTS = {"unit vectors ignore scale": scaled_student, "dot products ignore rotations": rotated_student}


def test_cc_is_proved():
    check_objective(CC, cc_reference, zero_at_equality=True, invariance=FACTS)


@pytest.mark.parametrize("arguments", [{"kernel": "bilinear"}, {"gamma": 1.5, "order": 3}, {"order": None}], ids=str)
def test_other_kernels_are_proved(arguments):
    check_objective(CC, cc_reference, arguments, zero_at_equality=True, invariance=FACTS, checks=QUICK)


def test_features_of_unlike_widths_are_compared():
    check_objective(CC, cc_reference, make_step=narrow_student, checks=["value", "gradient"])


def test_the_series_comes_near_the_kernel_itself():
    student, teacher = torch.randn(2, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(cc_loss(student, teacher, order=15), cc_loss(student, teacher, order=None))


def test_a_product_of_differences_is_caught():
    def wrong(self, step):
        gap = (step.student.features["stage1"] - step.teacher.features["stage1"].detach()).flatten(1).abs()
        return (gap[:-1] * gap[1:]).sum(1).mean()

    assert_caught(CC, wrong, cc_reference)


def test_a_norm_that_is_not_squared_is_caught():
    def wrong(self, step):
        return cc_loss(step.student.features["stage1"], step.teacher.features["stage1"]).sqrt()

    assert_caught(CC, wrong, cc_reference)
