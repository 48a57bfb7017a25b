"""Skew KL against the formula, in both directions, and its bounded gradient."""

import math
from functools import partial

import pytest
import torch

from tests.reference.skew_kl import skew_kl_reference
from transfuse.objectives.outputs.kd import kd_loss
from transfuse.objectives.outputs.reverse_kl import reverse_kl_loss
from transfuse.objectives.outputs.skew_kl import SkewKL, skew_kl_loss
from transfuse.testing import QUICK, Particulars, check_objective, example_step, reverse_classes, shift_student_logits


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_skew_kl_is_proved(direction):
    invariance = {"a softmax ignores shifts": shift_student_logits, "classes have no order": reverse_classes}
    arguments = {"direction": direction, "temperature": 2.0}
    check_objective(SkewKL, skew_kl_reference, arguments, zero_at_equality=True, invariance=invariance)


def test_skew_kl_is_proved_for_independent_labels():
    check_objective(
        SkewKL,
        skew_kl_reference,
        make_step=partial(example_step, task="multilabel"),
        zero_at_equality=True,
        checks=QUICK,
        particulars=Particulars(
            function=lambda objective, step: skew_kl_loss(step.student.logits, step.teacher.logits, distribution="bernoulli"),
            skip={"needs": "auto reads from the labels' type that classes are independent; the values of labels play no part"},
        ),
    )


def test_little_skew_is_the_plain_kl_and_much_of_it_bounds_the_value():
    student, teacher = torch.randn(2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(skew_kl_loss(student, teacher, 1e-9), kd_loss(student, teacher, 1.0), rtol=1e-6, atol=0)
    torch.testing.assert_close(skew_kl_loss(student, teacher, 1e-9, "reverse"), reverse_kl_loss(student, teacher, 1.0), rtol=1e-6, atol=0)
    opposite = torch.tensor([[500.0, 0.0]])
    assert skew_kl_loss(opposite, -opposite, 0.1).item() == pytest.approx(-math.log(0.1))


def test_no_skew_is_refused():
    with pytest.raises(ValueError, match="without skew"):
        skew_kl_loss(torch.zeros(1, 2), torch.zeros(1, 2), 0.0)
