"""Curriculum temperature against the formula; its temperature climbs while the student descends."""

from dataclasses import replace

import pytest
import torch

from tests.reference.ctkd import ctkd_reference
from transfuse.objectives.outputs.ctkd import CTKD, ctkd_loss
from transfuse.objectives.outputs.kd import kd_loss
from transfuse.testing import Particulars, Sizes, check_objective, example_step, reverse_classes, run, shift_student_logits


def temperature_of(objective):
    return objective.lowest + objective.span * torch.sigmoid(objective.raw)


def against_the_student(objective, step, objective_0, step_0):
    """Descends for the student, climbs for the temperature (strength 1 in the middle of training)."""
    teacher = step_0.teacher.logits
    student_part = ctkd_loss(step.student.logits, teacher, temperature_of(objective_0))
    return student_part - ctkd_loss(step_0.student.logits, teacher, temperature_of(objective))


def test_ctkd_is_proved():
    check_objective(
        CTKD,
        ctkd_reference,
        zero_at_equality=True,
        invariance={"a softmax ignores shifts": shift_student_logits, "classes have no order": reverse_classes},
        particulars=Particulars(
            surrogate=against_the_student,
            function=lambda objective, step: ctkd_loss(step.student.logits, step.teacher.logits, temperature_of(objective)),
        ),
    )


def test_it_starts_where_the_authors_start():
    assert temperature_of(CTKD()).item() == pytest.approx(1 + 20 * 0.7310586)


def test_at_a_fixed_temperature_it_is_kd():
    step = example_step(Sizes())
    expected = kd_loss(step.student.logits, step.teacher.logits, 5.0)
    torch.testing.assert_close(ctkd_loss(step.student.logits, step.teacher.logits, torch.tensor(5.0, dtype=torch.float64)), expected)


def test_the_reversal_grows_from_nothing_to_its_full_strength():
    step, objective = example_step(Sizes()), CTKD(warmup=0.1).double()
    slopes = [run(objective, replace(step, progress=progress)).gradients["objective.raw"] for progress in (0.0, 0.05, 0.1, 0.7)]
    assert slopes[0] == 0
    torch.testing.assert_close(slopes[1], slopes[2] / 2)
    assert slopes[2] == slopes[3]
    raw = objective.raw.detach().clone().requires_grad_()
    ctkd_loss(step.student.logits, step.teacher.logits, 1 + 20 * torch.sigmoid(raw)).sum().backward()
    torch.testing.assert_close(slopes[3], -raw.grad)


def test_no_warmup_is_full_strength_from_the_start():
    assert CTKD(warmup=0.0).strength(0.0) == 1.0
