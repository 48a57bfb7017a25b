"""Normalised soft targets against the formula, and against the state of the authors' code that kept the label among the others."""

import pytest
import torch
import torch.nn.functional as F

from tests.reference.nkd import nkd_reference
from transfuse.objectives.outputs.nkd import NKD, nkd_loss
from transfuse.testing import QUICK, check_objective, reverse_classes, shift_student_logits

INVARIANCE = {"a softmax ignores shifts": shift_student_logits, "classes have no order": reverse_classes}


@pytest.mark.parametrize("arguments", [{}, {"gamma": 2.0, "temperature": 3.0}])
def test_nkd_is_proved(arguments):
    check_objective(NKD, nkd_reference, arguments, invariance=INVARIANCE)


def test_the_codes_form_with_the_label_among_the_others_is_proved():
    arguments = {"others": "with_label", "temperature": 2.0}
    check_objective(NKD, nkd_reference, arguments, invariance=INVARIANCE, checks=QUICK)


def test_with_the_label_the_second_part_is_the_usual_soft_cross_entropy():
    student, teacher = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([0, 1, 2, 3])
    value = nkd_loss(student, teacher, labels, 1.0, 3.0, "with_label") - nkd_loss(student, teacher, labels, 0.0, 3.0, "with_label")
    torch.testing.assert_close(value, 9 * F.cross_entropy(student / 3, (teacher / 3).softmax(1), reduction="none"))


def test_the_other_classes_leave_the_label_out():
    """The part about the others must not change when only the label's logit does."""
    student, teacher = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 3])
    raised = student + 3 * F.one_hot(labels, 5)

    def others(logits):
        return nkd_loss(logits, teacher, labels, gamma=1.0) - nkd_loss(logits, teacher, labels, gamma=0.0)

    torch.testing.assert_close(others(raised), others(student))


def test_a_sure_teacher_without_gamma_is_the_cross_entropy_with_the_label():
    student = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 3])
    teacher = 1000.0 * F.one_hot(labels, 5)
    torch.testing.assert_close(nkd_loss(student, teacher, labels, gamma=0.0), F.cross_entropy(student, labels, reduction="none"))
