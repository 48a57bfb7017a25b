"""What every rule on features has to show, once: its formula, its gradient, its start, and that it can be saved."""

import copy

import pytest
import torch

from transfuse.errors import ModelError

DIMS = [3, 5, 4]


def features_of(dims, batch=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, dim, generator=generator, dtype=torch.float64) for dim in dims]


def built(rule, dims=DIMS, moved=True):
    """A rule that is built, with parameters away from where they start."""
    torch.manual_seed(0)
    rule.build(list(dims))
    rule = rule.double()
    if moved:
        with torch.no_grad():
            for parameter in rule.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
    return rule


def prove(rule, reference, dims=DIMS, **settings):
    """Value against the loop, gradient against finite differences, width as announced, the same after a round trip through its state."""
    fresh = copy.deepcopy(rule)
    rule, features = built(rule, dims), features_of(dims)
    state = {name: value.detach().numpy() for name, value in rule.state_dict().items()}
    expected = torch.tensor(reference([feature.numpy() for feature in features], state, **settings), dtype=torch.float64)
    found = rule(features)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert found.shape == (len(features[0]), rule.dim)
    assert torch.autograd.gradcheck(lambda *given: rule(list(given)), [feature.clone().requires_grad_() for feature in features])
    fresh = built(fresh, dims)
    fresh.load_state_dict(rule.state_dict())
    assert torch.equal(fresh(features), found)
    missing = [
        name for name, parameter in rule.named_parameters() if not torch.autograd.grad(rule(features).square().sum(), parameter)[0].any()
    ]
    assert not missing, f"no gradient reaches {missing}"


def refuses_what_it_was_not_built_for(rule):
    with pytest.raises(ValueError, match="call build"):
        rule(features_of(DIMS))
    with pytest.raises(ModelError, match="can't be fused"):
        copy.deepcopy(rule).build([])
    with pytest.raises(ModelError, match="can't be fused"):
        copy.deepcopy(rule).build([3, 0])
