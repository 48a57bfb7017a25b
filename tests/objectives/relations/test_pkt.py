"""Probabilistic knowledge transfer against the formula in both forms."""

from tests.objectives.planting import assert_caught
from tests.objectives.relations.steps import narrow_student, rotated_student, scaled_student
from tests.reference.pkt import pkt_reference
from transfuse.objectives.relations.pkt import PKT, pkt_loss
from transfuse.testing import QUICK, check_objective

FACTS = {"cosines ignore scale": scaled_student, "cosines ignore rotations": rotated_student}


def test_pkt_is_proved():
    check_objective(PKT, pkt_reference, zero_at_equality=True, invariance=FACTS)


def test_the_papers_form_is_proved():
    check_objective(PKT, pkt_reference, {"form": "paper"}, zero_at_equality=True, invariance=FACTS, checks=QUICK)


def test_features_of_unlike_widths_are_compared():
    check_objective(PKT, pkt_reference, make_step=narrow_student, checks=["value", "gradient"])


def test_the_divergence_the_other_way_round_is_caught():
    def wrong(self, step):
        return pkt_loss(step.teacher.features["stage1"], step.student.features["stage1"])

    assert_caught(PKT, wrong, pkt_reference)


def test_a_mean_over_rows_is_caught():
    def wrong(self, step):
        return len(step.batch) * pkt_loss(step.student.features["stage1"], step.teacher.features["stage1"])

    assert_caught(PKT, wrong, pkt_reference)
