"""Multi-level agreement against the formula and against the released code's own reading of it."""

import pytest
import torch

from tests.reference.mlld import mlld_reference
from transfuse.objectives.outputs.mlld import MLLD, mlld_loss
from transfuse.testing import Sizes, check_objective, example_step, reverse_classes, shift_student_logits


def test_mlld_is_proved():
    invariance = {"a softmax ignores shifts": shift_student_logits, "classes have no order": reverse_classes}
    check_objective(MLLD, mlld_reference, zero_at_equality=True, invariance=invariance)


def test_the_released_codes_form_is_proved():
    check_objective(MLLD, mlld_reference, {"form": "code"}, zero_at_equality=True, invariance={"classes have no order": reverse_classes})


def test_chosen_temperatures_are_added_up():
    step = example_step(Sizes(), two_views=True)
    parts = [MLLD(temperatures=[temperature])(step) for temperature in (1.0, 3.0)]
    torch.testing.assert_close(MLLD(temperatures=[1.0, 3.0])(step), parts[0] + parts[1])


def test_the_strong_view_teaches_at_every_temperature():
    """In the released code two of the five temperatures look at the weak view instead."""
    step = example_step(Sizes(), two_views=True)
    strong = step.second.student.logits.clone().requires_grad_()
    step.second.student.logits = strong
    for temperature in (2.0, 6.0):
        (gradient,) = torch.autograd.grad(MLLD(temperatures=[temperature])(step), strong)
        assert gradient.abs().max() > 0


def test_a_step_with_one_view_is_refused():
    with pytest.raises(ValueError, match="two views"):
        MLLD()(example_step(Sizes()))


def test_no_temperatures_are_refused():
    logits = torch.randn(4, 3)
    with pytest.raises(ValueError, match="temperatures is empty"):
        mlld_loss(logits, logits, logits, logits, [])
