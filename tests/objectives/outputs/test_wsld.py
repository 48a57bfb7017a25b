"""Weighted soft labels against the formula; the weight has no gradient."""

import torch

from tests.reference.wsld import wsld_reference
from transfuse.objectives.outputs.kd import kd_loss
from transfuse.objectives.outputs.wsld import WSLD, wsld_loss
from transfuse.testing import Particulars, check_objective, reverse_classes, shift_student_logits


def frozen_weight(objective, step, objective_0, step_0):
    """The value with the weight of the unchanged step, whose derivative the gradient is to be."""
    student, teacher = step_0.student.logits, step_0.teacher.logits
    weight = wsld_loss(student, teacher, step_0.batch.labels, objective.temperature) / kd_loss(student, teacher, objective.temperature)
    return weight * kd_loss(step.student.logits, teacher, objective.temperature)


def test_wsld_is_proved():
    check_objective(
        WSLD,
        wsld_reference,
        {"temperature": 3.0},
        zero_at_equality=True,
        invariance={"a softmax ignores shifts": shift_student_logits, "classes have no order": reverse_classes},
        particulars=Particulars(surrogate=frozen_weight),
    )


def test_a_student_better_than_its_teacher_learns_less():
    labels = torch.tensor([0])
    teacher = torch.tensor([[1.0, 0.0, 0.0]])
    better, worse = torch.tensor([[8.0, 0.5, 0.0]]), torch.tensor([[-8.0, 0.5, 0.0]])
    shares = [(wsld_loss(student, teacher, labels) / kd_loss(student, teacher, 2.0)).item() for student in (better, worse)]
    assert shares[0] < 0.01
    assert shares[1] > 0.99


def test_a_certain_teacher_divides_by_no_zero():
    certain = torch.tensor([[1e4, 0.0]], requires_grad=True)
    value = wsld_loss(certain, certain.detach(), torch.tensor([0]))
    value.sum().backward()
    assert value.item() == 0
    assert torch.isfinite(certain.grad).all()
