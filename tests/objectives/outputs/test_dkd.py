"""Decoupled soft targets against the formula, against kd, and where the authors' code is infinite."""

import pytest
import torch

from tests.reference.dkd import dkd_reference
from transfuse.objectives.outputs.dkd import DKD, dkd_loss
from transfuse.objectives.outputs.kd import kd_loss
from transfuse.testing import check_objective, reverse_classes, shift_student_logits


@pytest.mark.parametrize("arguments", [{}, {"alpha": 0.5, "beta": 2.0, "temperature": 1.0}])
def test_dkd_is_proved(arguments):
    invariance = {"a softmax ignores shifts": shift_student_logits, "classes have no order": reverse_classes}
    check_objective(DKD, dkd_reference, arguments, zero_at_equality=True, invariance=invariance)


def test_with_the_teachers_doubt_as_beta_it_is_kd():
    """The paper's equation 7: KD = TCKD + (1 - p_y) NCKD."""
    student, teacher = 2 * torch.randn(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(6) % 5
    doubt = 1 - (teacher / 4).softmax(-1).gather(-1, labels[:, None])[:, 0]
    for row in range(6):
        value = dkd_loss(student[[row]], teacher[[row]], labels[[row]], 1.0, doubt[row].item(), 4.0)
        torch.testing.assert_close(value, kd_loss(student[[row]], teacher[[row]], 4.0))


def test_with_two_classes_only_the_label_counts():
    student, teacher = torch.randn(2, 6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(6) % 2
    torch.testing.assert_close(dkd_loss(student, teacher, labels, 1.0, 8.0, 4.0), kd_loss(student, teacher, 4.0))


def test_a_certain_teacher_and_student_give_finite_values():
    """log(softmax) in the authors' code is -inf here."""
    logits = torch.tensor([[2000.0, 0.0, -5.0]], requires_grad=True)
    value = dkd_loss(logits, -logits, torch.tensor([0]))
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(logits.grad).all()


def test_unlabelled_samples_give_zero_and_a_single_class_is_refused():
    assert dkd_loss(torch.randn(2, 3), torch.randn(2, 3), torch.tensor([-1, 2]))[0] == 0
    with pytest.raises(ValueError, match="no other classes"):
        dkd_loss(torch.zeros(1, 1), torch.zeros(1, 1), torch.tensor([0]))
