"""Standardised logits against the formula; shift and scale are forgotten; two classes are refused."""

import pytest
import torch

from tests.reference.logit_standard import logit_standard_reference
from transfuse.objectives.outputs.kd import kd_loss
from transfuse.objectives.outputs.logit_standard import LogitStandard, logit_standard_loss
from transfuse.testing import Particulars, check_objective, reverse_classes, scale_student_logits, shift_student_logits


@pytest.mark.parametrize("deviation", ["sample", "population"])
def test_logit_standard_is_proved(deviation):
    check_objective(
        LogitStandard,
        logit_standard_reference,
        {"deviation": deviation},
        zero_at_equality=True,
        invariance={"shift": shift_student_logits, "order of classes": reverse_classes},
    )


def test_the_scale_of_the_logits_is_forgotten():
    # up to the 1e-7 beside the deviation, hence float32's tolerance
    student, teacher = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(1))
    factors = torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0, 16.0])[:, None]
    torch.testing.assert_close(logit_standard_loss(factors * student, teacher), logit_standard_loss(student, teacher), rtol=1e-4, atol=1e-6)


def test_it_is_kd_on_standardised_logits():
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    standardised = [(logits - logits.mean(-1, keepdim=True)) / logits.std(-1, keepdim=True) for logits in (student, teacher)]
    torch.testing.assert_close(logit_standard_loss(student, teacher, 2.0), kd_loss(*standardised, 2.0), rtol=1e-5, atol=1e-8)


def test_two_classes_teach_nothing_and_are_refused():
    with pytest.raises(ValueError, match="two classes"):
        logit_standard_loss(torch.randn(4, 2), torch.randn(4, 2))


def test_scaling_is_an_invariance_for_the_kit_too():
    check_objective(
        LogitStandard,
        logit_standard_reference,
        checks=["value"],
        invariance={"scale": scale_student_logits},
        particulars=Particulars(tolerance=1e-6),
    )


@pytest.mark.parametrize("deviation", ["sample", "population"])
@pytest.mark.parametrize("spread", [0.0, 1e-8, 1e-6, 1e-4, 1e-2])
def test_a_head_that_begins_with_zeros_has_a_bounded_gradient(spread, deviation):
    student, teacher = torch.randn(2, 32, 10, generator=torch.Generator().manual_seed(3))
    student = (spread * student).requires_grad_()
    gradient = torch.autograd.grad(logit_standard_loss(student, teacher, 2.0, deviation).mean(), student)[0]
    assert torch.isfinite(gradient).all()
    assert 0 < gradient.abs().max() < 1e3


def test_logits_that_differ_by_hundredths_are_brought_to_scale():
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    expected = logit_standard_reference((0.01 * student).numpy(), teacher.numpy(), 2.0, "sample")
    torch.testing.assert_close(logit_standard_loss(0.01 * student, teacher), torch.tensor(expected, dtype=torch.float64))
