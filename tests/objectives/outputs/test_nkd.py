"""Normalised soft targets against the formula, and against the state of the authors' code that kept the label among the others."""

import pytest
import torch
import torch.nn.functional as F

from tests.reference.nkd import nkd_reference
from transfuse.objectives.outputs.nkd import NKD, nkd_loss
from transfuse.testing import check_objective, reverse_classes, shift_student_logits


@pytest.mark.parametrize("arguments", [{}, {"gamma": 2.0, "temperature": 3.0}])
def test_nkd_is_proved(arguments):
    invariance = {"a softmax ignores shifts": shift_student_logits, "classes have no order": reverse_classes}
    check_objective(NKD, nkd_reference, arguments, invariance=invariance)


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
