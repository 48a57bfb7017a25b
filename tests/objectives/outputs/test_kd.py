"""Soft targets against the formula, its invariances, and what peers got wrong."""

from tests.reference.kd import kd_reference
from transfuse.objectives.outputs.kd import KD
from transfuse.testing import check_objective, reverse_classes, shift_student_logits


def test_kd_is_proved():
    check_objective(
        KD,
        kd_reference,
        zero_at_equality=True,
        invariance={"a softmax ignores shifts": shift_student_logits, "classes have no order": reverse_classes},
    )
