"""The gated sum against its formula; the gate looks at each sample."""

import pytest
import torch

from tests.fusion.features.proof import DIMS, built, features_of, prove, refuses_what_it_was_not_built_for
from tests.reference.fusion import gated_sum_reference
from transfuse.fusion.features.gated_sum import GatedSum


@pytest.mark.parametrize("projection", ["linear", "mlp"])
def test_gated_sum_is_proved(projection):
    prove(GatedSum(4, projection, "gelu"), gated_sum_reference, activation="gelu")


def test_it_begins_as_the_plain_sum():
    features = features_of([4, 4, 4])
    rule = built(GatedSum(projection="none", activation="none"), [4, 4, 4], moved=False)
    torch.testing.assert_close(rule(features), torch.stack(features).sum(0))


def test_shares_add_up_to_one_and_differ_between_samples():
    shares = built(GatedSum(4)).shares(features_of(DIMS))
    torch.testing.assert_close(shares.sum(1), torch.ones(4, dtype=torch.float64))
    assert shares.std(0).min() > 0


def test_gated_sum_refuses_what_it_was_not_built_for():
    refuses_what_it_was_not_built_for(GatedSum())
