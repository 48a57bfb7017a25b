"""Minimum class confusion against the formula, its detached weights included."""

import torch

from tests.objectives.domains.steps import two_domains
from tests.objectives.planting import assert_caught
from tests.reference.mcc import mcc_reference
from transfuse.objectives.domains.mcc import MCC, mcc_loss
from transfuse.testing import Particulars, check_objective, reverse_classes, shift_student_logits

FACTS = {"a softmax ignores shifts": shift_student_logits, "classes have no order": reverse_classes}


def weights_held(objective, step, objective_0, step_0):
    target = step.batch.domains == 1
    p, p_0 = ((one.student.logits[target] / objective.temperature).softmax(1) for one in (step, step_0))
    certainty = 1 + torch.exp((p_0 * p_0.log()).sum(1))
    confusion = torch.einsum("n,nj,nk->jk", len(p) * certainty / certainty.sum(), p, p)
    shares = confusion / confusion.sum(1, keepdim=True)
    return (1 - shares.diagonal()).mean()


def test_mcc_is_proved():
    check_objective(MCC, mcc_reference, make_step=two_domains, invariance=FACTS, particulars=Particulars(surrogate=weights_held))


def test_another_temperature_is_proved():
    particulars = Particulars(surrogate=weights_held)
    check_objective(MCC, mcc_reference, {"temperature": 1.0}, two_domains, checks=["value", "gradient"], particulars=particulars)


def test_certain_predictions_confuse_nothing():
    logits = 50 * torch.eye(4).repeat(2, 1)
    assert mcc_loss(logits, torch.ones(8, dtype=torch.int64)) < 1e-6


def test_taking_the_source_in_is_caught():
    def wrong(self, step):
        return mcc_loss(step.student.logits, step.batch.domains * 0 + 1)

    assert_caught(MCC, wrong, mcc_reference, make_step=two_domains)


def test_weights_with_a_gradient_are_caught():
    def wrong(self, step):
        p = (step.student.logits[step.batch.domains == 1] / self.temperature).softmax(1)
        certainty = 1 + torch.exp((p * p.log()).sum(1))
        confusion = torch.einsum("n,nj,nk->jk", len(p) * certainty / certainty.sum(), p, p)
        return (1 - (confusion / confusion.sum(1, keepdim=True)).diagonal()).mean()

    assert_caught(MCC, wrong, mcc_reference, "gradient", make_step=two_domains, particulars=Particulars(surrogate=weights_held))


def test_a_class_of_almost_no_probability_has_a_finite_gradient():
    for gap in (20, 45, 60, 90, 100, 103, 110):  # at float32, exp(-87) is the last normal number and exp(-103) the last one above 0
        logits = torch.tensor([[0.0, 0.5, -gap], [1.0, 0.2, -gap]], requires_grad=True)
        value = mcc_loss(logits, torch.ones(2, dtype=torch.int64), temperature=1.0)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(logits.grad).all(), gap
        assert logits.grad.abs().max() < 1, gap
