"""Every rule begins at what the sources' own heads say, whatever was done to the features before."""

import pytest
import torch

from tests.fusion.features.proof import DIMS, features_of
from transfuse.core.fused import FusedHead
from transfuse.fusion import features as rules
from transfuse.fusion import standardise

OUTPUTS = 3


def heads_for(dims, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(OUTPUTS, dim, generator=generator), torch.randn(OUTPUTS, generator=generator)) for dim in dims]


def topped(name, dims=DIMS, standard="phi_s", **settings):
    torch.manual_seed(0)
    rule = rules.get(name)(**settings)
    rule.build(list(dims))
    top = FusedHead(dims, rule, OUTPUTS, name, settings)
    if standard:
        top.standardise([standardise.fit(3 * one.float() + 2, standard) for one in features_of(dims, batch=40)])
    return top


@pytest.mark.parametrize("name", rules.names())
@pytest.mark.parametrize("projection", ["linear", "mlp"])
@pytest.mark.parametrize("activation", ["relu", "gelu", "none"])
@pytest.mark.parametrize("standard", ["phi_s", "whiten", None])
def test_a_head_begins_at_the_mean_of_the_sources_own(name, projection, activation, standard):
    top, heads = topped(name, standard=standard, width=8, projection=projection, activation=activation), heads_for(DIMS)
    assert top.begin(heads)
    given = [3 * one.float() + 2 for one in features_of(DIMS, batch=6, seed=2)]
    expected = torch.stack([one @ weight.T + bias for one, (weight, bias) in zip(given, heads, strict=True)]).mean(0)
    torch.testing.assert_close(top(torch.cat(given, 1)), expected, rtol=1e-5, atol=2e-5)
    top(torch.cat(given, 1)).square().sum().backward()
    assert top.head.weight.grad.abs().sum() > 0


def test_features_as_they_are_can_be_read_side_by_side_and_not_as_a_sum():
    heads, given = heads_for(DIMS), features_of(DIMS, batch=6)
    top = topped("concat", projection="none", activation="none")
    assert top.begin(heads)
    expected = torch.stack([one.float() @ weight.T + bias for one, (weight, bias) in zip(given, heads, strict=True)]).mean(0)
    torch.testing.assert_close(top(torch.cat(given, 1).float()), expected, rtol=1e-5, atol=2e-5)
    assert not topped("weighted_sum", [4, 4], projection="none", activation="none").begin(heads_for([4, 4]))


@pytest.mark.parametrize(("name", "settings"), [("concat", {"width": 5}), ("concat", {"projection": "none"}), ("attention", {"width": 4})])
def test_a_rule_without_room_for_the_heads_stays_as_it_was(name, settings):
    top = topped(name, **settings)
    before = {key: value.clone() for key, value in top.state_dict().items()}
    assert not top.begin(heads_for(DIMS))
    assert all(torch.equal(value, before[key]) for key, value in top.state_dict().items())
