"""Curriculum temperature against the formula; its temperature climbs while the student descends."""

from dataclasses import replace

import pytest
import torch

from tests.objectives.planting import assert_caught
from tests.reference.ctkd import ctkd_reference
from transfuse.objectives.outputs.ctkd import CTKD, ctkd_loss
from transfuse.objectives.outputs.kd import kd_loss
from transfuse.testing import Particulars, Sizes, check_objective, example_step, reverse_classes, run, shift_student_logits


def against_the_student(objective, step, objective_0, step_0):
    """Descends for the student, climbs for the temperature (strength 1 in the middle of training)."""
    teacher = step_0.teacher.logits
    student_part = ctkd_loss(step.student.logits, teacher, objective_0.temperature(step_0))
    return student_part - ctkd_loss(step_0.student.logits, teacher, objective.temperature(step_0))


def prepare(objective, step):
    objective.set_outputs(step.student.logits.shape[-1])


PARTICULARS = Particulars(
    prepare=prepare,
    surrogate=against_the_student,
    function=lambda objective, step: ctkd_loss(step.student.logits, step.teacher.logits, objective.temperature(step)),
)
SHIFTS = {"a softmax ignores shifts": shift_student_logits}


def test_ctkd_is_proved():
    facts = {**SHIFTS, "classes have no order": reverse_classes}
    check_objective(CTKD, ctkd_reference, zero_at_equality=True, invariance=facts, particulars=PARTICULARS)


def test_a_temperature_per_sample_is_proved():
    settings = {"zero_at_equality": True, "invariance": SHIFTS, "particulars": PARTICULARS}
    check_objective(CTKD, ctkd_reference, {"form": "instance"}, **settings)


def test_a_temperature_per_sample_starts_where_that_for_all_starts():
    objective, step = CTKD(form="instance"), example_step(Sizes())
    with pytest.raises(ValueError, match="call set_outputs"):
        objective(step)
    prepare(objective, step)
    torch.testing.assert_close(objective.double().temperature(step), CTKD().temperature(step).double().expand(6))


def test_samples_get_temperatures_of_their_own():
    objective, step = CTKD(form="instance"), example_step(Sizes())
    prepare(objective, step)
    torch.nn.init.normal_(objective.network[2].weight)
    assert len(objective.double().temperature(step).unique()) == 6


def test_a_gradient_that_is_not_reversed_is_caught():
    def wrong(self, step):
        return ctkd_loss(step.student.logits, step.teacher.logits, self.temperature(step))

    assert_caught(CTKD, wrong, ctkd_reference, check="gradient", arguments={"form": "instance"}, particulars=PARTICULARS)


def test_it_starts_where_the_authors_start():
    assert CTKD().temperature(example_step(Sizes())).item() == pytest.approx(1 + 20 * 0.7310586)


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
