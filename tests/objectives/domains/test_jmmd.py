"""Joint MMD against the formula in both estimates."""

from tests.objectives.domains.steps import alike, moved, other_domain, two_domains
from tests.objectives.planting import assert_caught
from tests.reference.jmmd import jmmd_reference
from transfuse.objectives._vectors import vectors
from transfuse.objectives.domains._kernels import square_distances
from transfuse.objectives.domains.jmmd import JMMD, jmmd_loss
from transfuse.objectives.domains.mmd import mmd_loss
from transfuse.testing import QUICK, Particulars, Sizes, check_objective, run, shift_student_logits

FACTS = {"distances ignore shifts": moved, "a softmax ignores shifts": shift_student_logits, "neither domain comes first": other_domain}


def widths_held(objective, step, objective_0, step_0):
    mean_square = square_distances(vectors(step_0.student.features["stage1"])).mean()
    features, logits = step.student.features["stage1"], step.student.logits
    return jmmd_loss(features, logits, step.batch.domains, objective.prediction_width, objective.estimator, mean_square)


def test_jmmd_is_proved():
    check_objective(JMMD, jmmd_reference, make_step=two_domains, invariance=FACTS, particulars=Particulars(surrogate=widths_held))


def test_the_biased_estimate_is_proved():
    particulars = Particulars(surrogate=widths_held)
    check_objective(JMMD, jmmd_reference, {"estimator": "biased"}, two_domains, invariance=FACTS, checks=QUICK, particulars=particulars)


def test_the_linear_time_estimate_is_proved():
    skip = {"invariance": "neighbours are those of the batch's order, and have to be"}
    particulars = Particulars(surrogate=widths_held, skip=skip)
    checks = [*QUICK, "compiled", "two_processes"]
    check_objective(JMMD, jmmd_reference, {"estimator": "linear"}, two_domains, checks=checks, particulars=particulars)


def test_the_same_samples_in_both_domains_are_at_distance_zero():
    assert run(JMMD(estimator="biased"), alike(two_domains(Sizes()))).values.abs() < 1e-12


def test_a_sum_of_both_discrepancies_is_caught():
    def wrong(self, step):
        domains = step.batch.domains
        return mmd_loss(step.student.features["stage1"], domains) + mmd_loss(step.student.logits.softmax(1), domains)

    assert_caught(JMMD, wrong, jmmd_reference, make_step=two_domains)
