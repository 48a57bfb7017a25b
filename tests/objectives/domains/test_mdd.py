"""Margin disparity discrepancy against the formula, its signs included."""

import pytest

from tests.objectives.domains.steps import adversarial, two_domains
from tests.objectives.planting import assert_caught
from tests.reference.mdd import mdd_reference
from transfuse.objectives._vectors import vectors
from transfuse.objectives.domains.mdd import MDD, mdd_loss
from transfuse.testing import check_objective, scale_student_logits, shift_student_logits

SMALL = {"hidden": 5}
FACTS = {"only the predicted class counts": shift_student_logits, "and not how certain it is": scale_student_logits}


def by_function(objective, step):
    adversary_logits = objective.adversary(vectors(step.student.features["stage1"]))
    return mdd_loss(adversary_logits, step.student.logits, step.batch.domains, objective.margin)


def test_mdd_is_proved():
    check_objective(MDD, mdd_reference, SMALL, two_domains, invariance=FACTS, particulars=adversarial(by_function))


def test_another_margin_is_proved():
    check_objective(MDD, mdd_reference, {**SMALL, "margin": 2.0}, two_domains, checks=["value"], particulars=adversarial(by_function))


def test_a_head_of_unknown_size_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="set_outputs"):
        MDD().build({"stage1": (2, 8)}, {})


def test_the_domains_in_each_others_place_are_caught():
    def wrong(self, step):
        adversary_logits = self.adversary(vectors(step.student.features["stage1"]))
        return mdd_loss(adversary_logits, step.student.logits, 1 - step.batch.domains, self.margin)

    particulars = adversarial(by_function)
    assert_caught(MDD, wrong, mdd_reference, arguments=SMALL, make_step=two_domains, particulars=particulars)


def test_a_gradient_that_is_not_reversed_is_caught():
    particulars = adversarial(by_function)
    assert_caught(MDD, by_function, mdd_reference, "gradient", arguments=SMALL, make_step=two_domains, particulars=particulars)
