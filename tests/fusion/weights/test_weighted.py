"""Weighted mean of the weights."""

import pytest
import torch

from tests.fusion.networks import calibration, mlp, parents, pictures, stirred
from transfuse.errors import RecipeError
from transfuse.fusion.types import Parent
from transfuse.fusion.weights.weighted import Weighted, weighted


def test_every_entry_is_the_weighted_mean():
    one, other = torch.randn(4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    made = weighted([{"w": one}, {"w": other}], [3, 1])["w"]
    for place in range(4):
        assert abs(float(made[place]) - (3 * float(one[place]) + float(other[place])) / 4) < 1e-14


def test_all_weight_on_one_source_gives_that_source():
    base = mlp()
    tuned = [stirred(base, seed, 0.1) for seed in (1, 2)]
    merged = Weighted([0.0, 2.0]).merge(parents(*tuned), calibration(pictures()))
    assert all(torch.equal(tensor, tuned[1].state_dict()[name]) for name, tensor in merged.module.state_dict().items())
    assert merged.figures["weights"] == {"a": 0.0, "b": 1.0}


def test_sources_bring_their_weights_where_the_recipe_says_none():
    base = mlp()
    tuned = [stirred(base, seed, 0.1) for seed in (1, 2)]
    given = [Parent("a", tuned[0], weight=3.0), Parent("b", tuned[1], weight=1.0)]
    made = Weighted().merge(given, calibration(pictures())).module.state_dict()["linear.weight"]
    assert torch.allclose(made, 0.75 * tuned[0].linear.weight + 0.25 * tuned[1].linear.weight, atol=1e-6)


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0]])
def test_weights_that_don_t_fit_are_named(weights):
    base = mlp()
    with pytest.raises(RecipeError, match="2 sources need as many weights"):
        Weighted(weights).merge(parents(base, stirred(base, 1, 0.1)), calibration(pictures()))
