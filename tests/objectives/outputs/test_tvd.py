"""Total variation distance against the formula and its bounds."""

from functools import partial

import pytest
import torch

from tests.reference.tvd import tvd_reference
from transfuse.objectives.outputs.tvd import TVD, tvd_loss
from transfuse.testing import QUICK, Particulars, check_objective, example_step, reverse_classes, shift_student_logits


def test_tvd_is_proved():
    invariance = {"a softmax ignores shifts": shift_student_logits, "classes have no order": reverse_classes}
    check_objective(TVD, tvd_reference, {"temperature": 2.0}, zero_at_equality=True, invariance=invariance)


def test_tvd_is_proved_for_independent_labels():
    check_objective(
        TVD,
        tvd_reference,
        make_step=partial(example_step, task="multilabel"),
        zero_at_equality=True,
        checks=QUICK,
        particulars=Particulars(
            function=lambda objective, step: tvd_loss(step.student.logits, step.teacher.logits, 1.0, "bernoulli"),
            skip={"needs": "auto reads from the labels' type that classes are independent; the values of labels play no part"},
        ),
    )


def test_it_lies_between_0_and_1_and_is_symmetric():
    opposite = torch.tensor([[500.0, 0.0]])
    assert tvd_loss(opposite, -opposite).item() == pytest.approx(1.0)
    student, teacher = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(tvd_loss(student, teacher), tvd_loss(teacher, student))


def test_the_temperature_keeps_the_gradients_size():
    """The slope at small differences stays of one order between T = 4 and T = 16; with T squared it would grow fourfold."""
    student, teacher = 0.1 * torch.randn(2, 50, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    values = [tvd_loss(student, teacher, temperature).mean().item() for temperature in (4.0, 16.0)]
    assert values[1] == pytest.approx(values[0], rel=0.05)
