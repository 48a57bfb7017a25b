"""Multi-kernel MMD against both estimates, with unequal numbers of samples, and what peers add to it."""

import pytest
import torch

from tests.objectives.domains.steps import alike, moved, only_source, other_domain, two_domains
from tests.objectives.planting import assert_caught
from tests.reference.mmd import mmd_reference
from transfuse.objectives._vectors import vectors
from transfuse.objectives.domains._kernels import square_distances
from transfuse.objectives.domains.mmd import MMD, mmd_loss
from transfuse.testing import QUICK, Particulars, Sizes, check_objective, example_step, run

FACTS = {"distances ignore shifts": moved, "neither domain comes first": other_domain}


def widths_held(objective, step, objective_0, step_0):
    mean_square = square_distances(vectors(step_0.student.features["stage1"])).mean()
    return mmd_loss(step.student.features["stage1"], step.batch.domains, objective.estimator, mean_square)


def test_mmd_is_proved():
    check_objective(MMD, mmd_reference, make_step=two_domains, invariance=FACTS, particulars=Particulars(surrogate=widths_held))


def test_the_biased_estimate_is_proved():
    particulars = Particulars(surrogate=widths_held)
    check_objective(MMD, mmd_reference, {"estimator": "biased"}, two_domains, invariance=FACTS, checks=QUICK, particulars=particulars)


def test_the_linear_time_estimate_is_proved():
    skip = {"invariance": "neighbours are those of the batch's order, and have to be"}
    particulars = Particulars(surrogate=widths_held, skip=skip)
    checks = [*QUICK, "compiled", "two_processes"]
    check_objective(MMD, mmd_reference, {"estimator": "linear"}, two_domains, checks=checks, particulars=particulars)


def test_the_same_samples_in_both_domains_are_at_distance_zero():
    step = alike(two_domains(Sizes()))
    assert run(MMD("biased"), step).values.abs() < 1e-12


def test_two_samples_of_one_distribution_are_at_distance_zero_on_average():
    generator = torch.Generator().manual_seed(0)
    domains = torch.arange(12) % 3 // 2
    drawn = [torch.randn(12, 4, generator=generator, dtype=torch.float64) for _ in range(400)]
    spread = {}
    for estimator in ("unbiased", "linear"):
        values = torch.stack([mmd_loss(features, domains, estimator) for features in drawn])
        assert values.mean().abs() < 4 * values.std() / 20
        assert values.min() < 0  # an unbiased estimate of zero has to be negative at times
        spread[estimator] = values.std()
    assert spread["unbiased"] < spread["linear"]


@pytest.mark.parametrize("estimator", ["unbiased", "linear"])
def test_a_batch_of_one_domain_adds_nothing(estimator):
    outcome = run(MMD(estimator), only_source(two_domains(Sizes())))
    assert outcome.values == 0
    assert outcome.gradients["student.features.stage1"].abs().max() == 0


def test_a_step_without_domains_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="domain"):
        MMD()(example_step(Sizes(), taps=1))


def test_a_constant_that_is_added_is_caught():
    def wrong(self, step):
        return mmd_loss(step.student.features["stage1"], step.batch.domains) + 2 / (len(step.batch) - 1)

    assert_caught(MMD, wrong, mmd_reference, make_step=two_domains)


def test_pairing_samples_as_if_there_were_equally_many_is_caught():
    def wrong(self, step):
        source, target = (step.student.features["stage1"][step.batch.domains == domain] for domain in (0, 1))
        both = torch.cat([source, target[: len(source)]])
        return mmd_loss(both, torch.arange(len(both)) // len(source))

    assert_caught(MMD, wrong, mmd_reference, make_step=lambda sizes: two_domains(Sizes(batch=9, seed=sizes.seed)))
