"""Concatenation against its formula."""

import pytest
import torch

from tests.fusion.features.proof import DIMS, built, features_of, prove, refuses_what_it_was_not_built_for
from tests.reference.fusion import concat_reference
from transfuse.fusion import features as rules
from transfuse.fusion.features.concat import Concat


@pytest.mark.parametrize("projection", ["linear", "mlp"])
@pytest.mark.parametrize("activation", ["relu", "gelu", "none"])
def test_concat_is_proved(projection, activation):
    prove(Concat(4, projection, activation), concat_reference, activation=activation)


def test_without_projection_the_features_stand_side_by_side():
    features = features_of(DIMS)
    rule = built(Concat(projection="none", activation="none"))
    assert torch.equal(rule(features), torch.cat(features, 1))
    assert rule.dim == sum(DIMS)


def test_concat_refuses_what_it_was_not_built_for():
    refuses_what_it_was_not_built_for(Concat())


def test_every_rule_has_a_card_and_a_test_file():
    from pathlib import Path

    assert {"attention", "concat", "gated_sum", "weighted_sum"} <= set(rules.names())
    for name in rules.names():
        assert rules.card(name).title
        assert isinstance(rules.get(name)(), torch.nn.Module)
        assert (Path(__file__).parent / f"test_{name}.py").exists()
