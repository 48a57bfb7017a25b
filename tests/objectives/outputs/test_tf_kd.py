"""The virtual teacher against the formula and against kd with real logits."""

import pytest
import torch
import torch.nn.functional as F

from tests.reference.tf_kd import tf_kd_reference
from transfuse.objectives.outputs.kd import kd_loss
from transfuse.objectives.outputs.tf_kd import TfKD, tf_kd_loss
from transfuse.testing import check_objective, reverse_classes, shift_student_logits


@pytest.mark.parametrize("arguments", [{}, {"correct": 0.9, "temperature": 2.0, "soften_student": True}])
def test_tf_kd_is_proved(arguments):
    invariance = {"a softmax ignores shifts": shift_student_logits, "classes have no order": reverse_classes}
    check_objective(TfKD, tf_kd_reference, arguments, invariance=invariance)


def test_with_a_softened_student_it_is_kd_from_the_virtual_teacher():
    labels = torch.tensor([0, 1, 2, 3])
    student = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    virtual = torch.full((4, 5), 0.01 / 4, dtype=torch.float64).masked_fill(F.one_hot(labels, 5).bool(), 0.99)
    torch.testing.assert_close(tf_kd_loss(student, labels, temperature=20.0, soften_student=True), kd_loss(student, virtual, 20.0))


def test_it_is_a_sum_over_classes_not_their_mean():
    """nn.KLDivLoss() as in the authors' code divides by the number of classes too."""
    labels = torch.tensor([0, 1, 2, 3])
    student = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    virtual = torch.full((4, 5), 0.01 / 4).masked_fill(F.one_hot(labels, 5).bool(), 0.99)
    meant = F.kl_div(F.log_softmax(student, -1), F.softmax(virtual / 20, -1), reduction="none").mean()
    torch.testing.assert_close(tf_kd_loss(student, labels).mean(), 5 * meant)


def test_it_takes_nothing_from_a_teacher():
    from transfuse import objectives

    assert not objectives.card("tf_kd").transfers


def test_a_very_low_temperature_stays_finite():
    assert torch.isfinite(tf_kd_loss(torch.randn(2, 3), torch.tensor([0, 1]), temperature=1e-3)).all()
