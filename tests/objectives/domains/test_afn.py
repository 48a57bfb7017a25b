"""Adaptive feature norm against both forms; the stepwise one teaches by its gradient alone."""

import torch

from tests.objectives.domains.steps import two_domains
from tests.objectives.planting import assert_caught
from tests.reference.afn import afn_reference
from transfuse.objectives.domains.afn import AFN, afn_loss
from transfuse.testing import Particulars, Sizes, check_objective, run


def radius_held(objective, step, objective_0, step_0):
    norms, norms_0 = (one.student.features["stage1"].mean((2, 3)).norm(dim=1) for one in (step, step_0))
    gaps = (norms - norms_0 - objective.increase).square()
    return gaps[step.batch.domains == 0].mean() + gaps[step.batch.domains == 1].mean()


def test_the_stepwise_form_is_proved():
    check_objective(AFN, afn_reference, {"increase": 0.7}, make_step=two_domains, particulars=Particulars(surrogate=radius_held))


def test_the_hard_form_is_proved():
    check_objective(AFN, afn_reference, {"form": "hard", "radius": 2.0}, make_step=two_domains)


def test_a_step_down_the_gradient_makes_norms_larger():
    step = two_domains(Sizes())
    gradient = run(AFN(), step).gradients["student.features.stage1"]
    feature = step.student.features["stage1"]
    assert gradient is not None
    before, after = (rows.mean((2, 3)).norm(dim=1) for rows in (feature, feature - 0.1 * gradient))
    assert (after > before).all()


def test_a_radius_with_a_gradient_is_caught():
    def wrong(self, step):
        norms = step.student.features["stage1"].mean((2, 3)).norm(dim=1)
        return 2 * (norms - (norms + self.increase)).square().mean()

    particulars = Particulars(surrogate=radius_held)
    assert_caught(AFN, wrong, afn_reference, "gradient", make_step=two_domains, particulars=particulars)


def test_one_mean_over_both_domains_is_caught():
    def wrong(self, step):
        return (step.student.features["stage1"].mean((2, 3)).norm(dim=1).mean() - self.radius).square()

    assert_caught(AFN, wrong, afn_reference, arguments={"form": "hard"}, make_step=two_domains)


def test_a_batch_of_one_domain_adds_nothing():
    rows, domains = torch.randn(4, 3), torch.zeros(4, dtype=torch.int64)
    assert afn_loss(rows, domains, form="hard") == 0
