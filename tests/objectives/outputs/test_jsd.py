"""Jensen-Shannon divergence against the formula, its symmetry, its bounds and its limits."""

import math
from functools import partial

import pytest
import torch

from tests.reference.jsd import jsd_reference
from transfuse.objectives.outputs.jsd import JSD, jsd_loss
from transfuse.objectives.outputs.kd import kd_loss
from transfuse.objectives.outputs.reverse_kl import reverse_kl_loss
from transfuse.testing import QUICK, Particulars, check_objective, example_step, reverse_classes, shift_student_logits


@pytest.fixture
def logits():
    return 2 * torch.randn(2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_jsd_is_proved():
    invariance = {"a softmax ignores shifts": shift_student_logits, "classes have no order": reverse_classes}
    check_objective(JSD, jsd_reference, {"beta": 0.1, "temperature": 2.0}, zero_at_equality=True, invariance=invariance)


@pytest.mark.parametrize("arguments", [{}, {"beta": 0.7, "normalised": True}])
def test_jsd_is_proved_for_independent_labels(arguments):
    check_objective(
        JSD,
        jsd_reference,
        arguments,
        make_step=partial(example_step, task="multilabel"),
        zero_at_equality=True,
        checks=QUICK,
        particulars=Particulars(
            function=lambda objective, step: jsd_loss(
                step.student.logits, step.teacher.logits, objective.beta, 1.0, objective.normalised, "bernoulli"
            ),
            skip={"needs": "auto reads from the labels' type that classes are independent; the values of labels play no part"},
        ),
    )


def test_at_one_half_it_is_symmetric_and_at_most_log_2(logits):
    student, teacher = logits
    torch.testing.assert_close(jsd_loss(student, teacher), jsd_loss(teacher, student))
    opposite = torch.tensor([[500.0, 0.0]])
    assert jsd_loss(opposite, -opposite).item() == pytest.approx(math.log(2))


def test_beta_is_the_teachers_share(logits):
    """Swapping the shares is a known bug; the divergence at beta from one side is that at 1 - beta from the other."""
    student, teacher = logits
    torch.testing.assert_close(jsd_loss(student, teacher, 0.1), jsd_loss(teacher, student, 0.9))
    assert not torch.allclose(jsd_loss(student, teacher, 0.1), jsd_loss(student, teacher, 0.9), rtol=1e-2)


def test_normalised_it_goes_over_into_both_kls(logits):
    student, teacher = logits
    torch.testing.assert_close(jsd_loss(student, teacher, 1e-6, normalised=True), kd_loss(student, teacher, 1.0), rtol=1e-3, atol=0)
    torch.testing.assert_close(
        jsd_loss(student, teacher, 1 - 1e-6, normalised=True), reverse_kl_loss(student, teacher, 1.0), rtol=1e-3, atol=0
    )


def test_the_ends_are_refused(logits):
    for beta in (0.0, 1.0):
        with pytest.raises(ValueError, match="reverse_kl"):
            jsd_loss(*logits, beta)
