"""Deep CORAL against the formula and numpy, and the other loss that goes by its name."""

import numpy as np
import torch

from tests.objectives.domains.steps import alike, moved, only_source, other_domain, target_moved, two_domains, with_feature
from tests.objectives.planting import assert_caught
from tests.reference.coral import coral_reference
from transfuse.objectives.domains.coral import CORAL, coral_loss
from transfuse.testing import Particulars, Sizes, check_objective, run

FACTS = {"covariances ignore shifts": moved, "even of one domain only": target_moved, "neither domain comes first": other_domain}


def test_coral_is_proved():
    reason = {"extreme": "the gradient is cubic in the features: at 1e4 it is finite in float32, but above float16's largest number"}
    check_objective(CORAL, coral_reference, make_step=two_domains, invariance=FACTS, particulars=Particulars(skip=reason))


def test_features_of_1e4_give_finite_values_and_gradients():
    step = two_domains(Sizes())
    outcome = run(CORAL(), with_feature(step, 1e4 * step.student.features["stage1"].float()))
    assert torch.isfinite(outcome.values)
    assert torch.isfinite(outcome.gradients["student.features.stage1"]).all()


def test_coral_agrees_with_numpy():
    rows, domains = torch.randn(11, 3, dtype=torch.float64), torch.arange(11) % 3 // 2
    source, target = (np.cov(rows[domains == domain].numpy(), rowvar=False) for domain in (0, 1))
    np.testing.assert_allclose(coral_loss(rows, domains).item(), ((source - target) ** 2).sum() / 36)


def test_a_batch_of_one_domain_adds_nothing():
    assert run(CORAL(), only_source(two_domains(Sizes()))).values == 0


def test_scaling_the_target_apart_is_seen():
    step = alike(two_domains(Sizes()))
    assert run(CORAL(), step).values > 0  # the target holds every sample twice, which n - 1 sees
    rows = torch.randn(8, 3, dtype=torch.float64)
    both, domains = torch.cat([rows, rows.flip(0)]), torch.arange(16) // 8
    assert coral_loss(both, domains) < 1e-20
    assert coral_loss(both * torch.where(domains == 1, 2.0, 1.0)[:, None], domains) > 1e-3


def test_a_gap_between_means_beside_the_covariances_is_caught():
    def wrong(self, step):
        rows, domains = step.student.features["stage1"].mean((2, 3)), step.batch.domains
        gap = rows[domains == 0].mean(0) - rows[domains == 1].mean(0)
        return coral_loss(rows, domains) + gap.square().mean()

    assert_caught(CORAL, wrong, coral_reference, make_step=two_domains)
    assert_caught(CORAL, wrong, coral_reference, "invariance", make_step=two_domains, invariance=FACTS)


def test_a_missing_quarter_is_caught():
    def wrong(self, step):
        return 4 * coral_loss(step.student.features["stage1"], step.batch.domains)

    assert_caught(CORAL, wrong, coral_reference, make_step=two_domains)
