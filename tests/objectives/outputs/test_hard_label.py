"""Hard labels from the teacher against the formula and torch's cross-entropy."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from tests.reference.hard_label import hard_label_reference
from transfuse.objectives.outputs.hard_label import HardLabel, hard_label_loss
from transfuse.testing import QUICK, Particulars, check_objective, example_step, reverse_classes, shift_student_logits


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_hard_label_is_proved(smoothing):
    invariance = {"a softmax ignores shifts": shift_student_logits, "classes have no order": reverse_classes}
    check_objective(HardLabel, hard_label_reference, {"smoothing": smoothing}, invariance=invariance)


def test_hard_label_is_proved_for_independent_labels():
    check_objective(
        HardLabel,
        hard_label_reference,
        {"smoothing": 0.2},
        make_step=partial(example_step, task="multilabel"),
        checks=QUICK,
        particulars=Particulars(
            function=lambda objective, step: hard_label_loss(step.student.logits, step.teacher.logits, 0.2, "bernoulli"),
            skip={"needs": "auto reads from the labels' type that classes are independent; the values of labels play no part"},
        ),
    )


def test_it_is_torchs_cross_entropy_with_the_teachers_class():
    student, teacher = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(1))
    expected = F.cross_entropy(student, teacher.argmax(-1), label_smoothing=0.1, reduction="none")
    torch.testing.assert_close(hard_label_loss(student, teacher, 0.1), expected)
