"""The weighted sum against its formula, with both kinds of weights."""

import pytest
import torch

from tests.fusion.features.proof import DIMS, built, features_of, prove, refuses_what_it_was_not_built_for
from tests.reference.fusion import weighted_sum_reference
from transfuse.errors import ModelError
from transfuse.fusion.features.weighted_sum import WeightedSum


@pytest.mark.parametrize("weights", ["softmax", "free"])
@pytest.mark.parametrize("projection", ["linear", "mlp"])
def test_weighted_sum_is_proved(projection, weights):
    prove(WeightedSum(4, projection, weights, "gelu"), weighted_sum_reference, activation="gelu", weights=weights)


@pytest.mark.parametrize("weights", ["softmax", "free"])
def test_it_begins_as_the_plain_sum_whatever_the_weights(weights):
    features = features_of([4, 4, 4])
    rule = built(WeightedSum(projection="none", weights=weights, activation="none"), [4, 4, 4], moved=False)
    torch.testing.assert_close(rule(features), torch.stack(features).sum(0))
    torch.testing.assert_close(rule.shares(features), torch.full((4, 3), 1 / 3, dtype=torch.float64))


def test_softmax_weights_are_positive_and_keep_their_sum():
    alpha = built(WeightedSum(4)).alpha()
    assert (alpha > 0).all()
    torch.testing.assert_close(alpha.sum(), torch.tensor(3.0, dtype=torch.float64))


def test_a_source_without_weight_is_not_heard():
    rule, features = built(WeightedSum(4, weights="free")), features_of(DIMS)
    with torch.no_grad():
        rule.scores[1] = 0.0
    other = [features[0], features[1] + 1, features[2]]
    assert torch.equal(rule(features), rule(other))
    assert (rule.shares(features)[:, 1] == 0).all()


def test_features_of_several_widths_are_not_added_up_as_they_are():
    with pytest.raises(ModelError, match="3, 5, 4 numbers can't be added up"):
        WeightedSum(projection="none").build(DIMS)


def test_weighted_sum_refuses_what_it_was_not_built_for():
    refuses_what_it_was_not_built_for(WeightedSum())
