"""Conditional adversarial training against the formula, with and without entropies, exact and with random features."""

import pytest
import torch

from tests.objectives.domains.steps import adversarial, two_domains
from tests.objectives.planting import assert_caught
from tests.reference.cdan import cdan_reference
from transfuse.objectives._vectors import vectors
from transfuse.objectives.domains import cdan
from transfuse.objectives.domains.cdan import CDAN, cdan_loss
from transfuse.testing import QUICK, check_objective, shift_student_logits

SMALL = {"hidden": 5}
FACTS = {"a softmax ignores shifts": shift_student_logits}


def domain_logits(objective, step):
    rows, predictions = vectors(step.student.features["stage1"]), step.student.logits.detach().softmax(1)
    return objective.discriminator(torch.einsum("nd,nc->ndc", rows, predictions).flatten(1))[:, 0]


def by_function(objective, step):
    return cdan_loss(domain_logits(objective, step), step.student.logits, step.batch.domains, objective.entropy)


def test_cdan_with_entropies_is_proved():
    check_objective(CDAN, cdan_reference, SMALL, two_domains, invariance=FACTS, particulars=adversarial(by_function))


def test_cdan_without_entropies_is_proved():
    arguments = {**SMALL, "entropy": False}
    check_objective(CDAN, cdan_reference, arguments, two_domains, invariance=FACTS, checks=QUICK, particulars=adversarial(by_function))


def test_random_features_are_proved(monkeypatch):
    monkeypatch.setattr(cdan, "EXACT_UP_TO", 10)
    checks = ["value", "gradient", "saved", "gradient_flow"]
    check_objective(CDAN, cdan_reference, {**SMALL, "random_width": 7}, two_domains, checks=checks, particulars=adversarial(by_function))


def test_a_discriminator_of_unknown_size_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="set_outputs"):
        CDAN().build({"stage1": (2, 8)}, {})


def test_weights_normalised_over_both_domains_are_caught():
    def wrong(self, step):
        p = step.student.logits.detach().softmax(1)
        certainty = 1 + torch.exp((p * p.log()).sum(1))
        certainty = certainty / certainty.mean()
        logits, domains = domain_logits(self, step), step.batch.domains
        signs = torch.where(domains == 0, -1.0, 1.0)
        return (certainty * torch.nn.functional.softplus(signs * logits)).mean()

    particulars = adversarial(by_function)
    assert_caught(CDAN, wrong, cdan_reference, arguments=SMALL, make_step=two_domains, particulars=particulars)


def test_predictions_with_a_gradient_are_caught():
    def wrong(self, step):
        rows, predictions = vectors(step.student.features["stage1"]), step.student.logits.softmax(1)
        joint = torch.einsum("nd,nc->ndc", rows, predictions).flatten(1)
        return cdan_loss(self.discriminator(joint)[:, 0], step.student.logits, step.batch.domains)

    particulars = adversarial(by_function)
    assert_caught(CDAN, wrong, cdan_reference, "gradient", arguments=SMALL, make_step=two_domains, particulars=particulars)
