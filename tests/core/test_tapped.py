"""Pooled inner features: what they are, and a last layer that is given them."""

import copy

import pytest
import torch
from torch import nn

from transfuse.core.grafts import graft, grafts_of, regraft
from transfuse.core.tapped import Gathered, Tapped, averaged_axes, gathering, pooled
from transfuse.errors import ModelError


class Pictures(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 5, 3)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(5, 2)

    def forward(self, inputs):
        seen = self.relu(self.second(self.relu(self.first(inputs))))
        return self.head(seen.mean((2, 3)))


class Tokens(nn.Module):
    """[batch, height, width, channels] inside, as Swin has it."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.head = nn.Linear(4, 8), nn.Identity(), nn.Linear(8, 2)

    def forward(self, inputs):
        return self.head(self.mix(self.embed(inputs.permute(0, 2, 3, 1))).mean((1, 2)))


def test_features_are_averaged_over_positions_and_put_side_by_side():
    network, inputs = Pictures().eval(), torch.randn(4, 1, 9, 9)
    found = Tapped(network, ["second", "first", "head@input"])(inputs)
    first = network.first(inputs)
    second = network.second(first.relu())
    expected = [second.mean((2, 3)), first.mean((2, 3)), second.relu().mean((2, 3))]
    assert torch.allclose(found, torch.cat(expected, 1), atol=1e-6), "a feature is what it was before it was changed in place"


def test_axes_are_positions():
    assert averaged_axes((2, 7)) == []
    assert averaged_axes((2, 3, 4, 5)) == [2, 3]
    assert averaged_axes((2, 50, 8)) == [1]
    assert pooled(torch.ones(2, 3, 4, 4), [2, 3]).shape == (2, 3)


CASES = [
    (Pictures, ["first", "second"], (1, 9, 9)),
    (Tokens, ["embed"], (4, 5, 5)),
    (Pictures, ["first", "head@input"], (1, 9, 9)),
]


@pytest.mark.parametrize(("network", "taps", "shape"), CASES)
def test_a_last_layer_is_given_the_same_features_in_copies_and_from_its_record(network, taps, shape):
    plain, inputs = network().eval(), torch.randn(3, *shape)
    features = Tapped(plain, taps)(inputs)
    layer = nn.Linear(features.shape[1], 4)
    expected = layer(features)
    grafted = copy.deepcopy(plain)
    graft(grafted, "head", "instead", [gathering(plain, taps, inputs[:1]), layer])
    assert torch.allclose(grafted(inputs), expected, atol=1e-6)
    twin = copy.deepcopy(grafted)
    with torch.no_grad():
        twin.head[1].weight.zero_()
    assert torch.allclose(grafted(inputs), expected, atol=1e-6), "a copy has hooks of its own"
    again = copy.deepcopy(plain)
    regraft(again, grafts_of(grafted))
    again.load_state_dict(grafted.state_dict())
    assert torch.allclose(again(inputs), expected, atol=1e-6)


def test_a_place_that_is_not_there_is_named():
    with pytest.raises(ModelError, match="no module 'third'"):
        graft(Pictures(), "head", "instead", [Gathered(["third"], [[2, 3]]), nn.Linear(3, 2)])
