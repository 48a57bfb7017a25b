"""Entropy on the target's samples against the formula."""

from tests.objectives.domains.steps import two_domains
from tests.objectives.planting import assert_caught
from tests.reference.entropy import entropy_reference
from transfuse.objectives.domains.entropy import Entropy, entropy_loss
from transfuse.testing import check_objective, reverse_classes, shift_student_logits

FACTS = {"a softmax ignores shifts": shift_student_logits, "classes have no order": reverse_classes}


def test_entropy_is_proved():
    check_objective(Entropy, entropy_reference, make_step=two_domains, invariance=FACTS)


def test_taking_the_source_in_is_caught():
    def wrong(self, step):
        return entropy_loss(step.student.logits, step.batch.domains * 0 + 1)

    assert_caught(Entropy, wrong, entropy_reference, make_step=two_domains)


def test_the_opposite_sign_is_caught():
    def wrong(self, step):
        return -entropy_loss(step.student.logits, step.batch.domains)

    assert_caught(Entropy, wrong, entropy_reference, make_step=two_domains)
