"""Domain-adversarial training against the formula: the discriminator descends, the student climbs."""

import torch.nn.functional as F

from tests.objectives.domains.steps import adversarial, only_source, prepared, two_domains
from tests.objectives.planting import assert_caught
from tests.reference.dann import dann_reference
from transfuse.objectives._vectors import vectors
from transfuse.objectives.domains._adversary import strength_at
from transfuse.objectives.domains.dann import DANN, dann_loss
from transfuse.testing import Sizes, check_objective, run

SMALL = {"hidden": 5}


def by_function(objective, step):
    return dann_loss(objective.discriminator(vectors(step.student.features["stage1"]))[:, 0], step.batch.domains)


def test_dann_is_proved():
    check_objective(DANN, dann_reference, SMALL, two_domains, particulars=adversarial(by_function))


def test_the_reversal_grows_from_nothing_to_its_highest():
    assert strength_at(0.0, 1.0, 10.0) == 0
    assert 0.46 < strength_at(0.1, 1.0, 10.0) < 0.463  # 2 / (1 + e^-1) - 1 = tanh(1/2)
    assert abs(strength_at(1.0, 0.3, 10.0) - 0.3) < 1e-4


def test_a_batch_of_one_domain_adds_nothing():
    step = only_source(two_domains(Sizes()))
    objective = DANN(hidden=5)
    prepared(objective, step)
    assert run(objective.double(), step).values == 0


def test_a_gradient_that_is_not_reversed_is_caught():
    assert_caught(
        DANN, by_function, dann_reference, "gradient", arguments=SMALL, make_step=two_domains, particulars=adversarial(by_function)
    )


def test_a_mean_over_all_samples_is_caught():
    def wrong(self, step):
        logits = self.discriminator(vectors(step.student.features["stage1"]))[:, 0]
        return F.binary_cross_entropy_with_logits(logits, 1 - step.batch.domains.to(logits.dtype))

    assert_caught(DANN, wrong, dann_reference, arguments=SMALL, make_step=two_domains)
