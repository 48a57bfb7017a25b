"""Layers are put into a network, told to a .json, and put again into a fresh one; features stay where they can be read."""

import copy
import json

import pytest
import torch
from torch import nn

from transfuse.core.grafts import graft, grafted_tap, grafts_of, original_tap, regraft
from transfuse.core.taps import Taps
from transfuse.errors import ModelError


def cnn() -> nn.Sequential:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()


def grown() -> nn.Sequential:
    network = cnn()
    graft(network, "3", "instead", [nn.Linear(6, 2)])
    graft(network, "0", "after", [nn.AdaptiveAvgPool2d((2, 2)), nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()])
    graft(network, "3", "before", [nn.Linear(6, 6), nn.BatchNorm1d(6)])
    return network.eval()


def test_a_network_is_grown_again_from_what_a_json_holds():
    network, fresh = grown(), cnn()
    regraft(fresh, json.loads(json.dumps(grafts_of(network))))
    assert grafts_of(fresh) == grafts_of(network)
    fresh.load_state_dict(network.state_dict())
    inputs = torch.randn(2, 1, 8, 8)
    assert torch.equal(fresh.eval()(inputs), network(inputs))
    assert repr(fresh) == repr(network)


def test_layers_stand_where_they_were_put():
    plain, network, inputs = cnn(), grown(), torch.randn(2, 1, 8, 8)
    bridged = network[0][1](plain[0](inputs))
    head = network[3][1]
    torch.testing.assert_close(network(inputs), head(network[3][0](bridged.mean((2, 3)))))


def test_most_networks_have_none_and_copies_keep_theirs():
    assert grafts_of(cnn()) == []
    assert grafts_of(copy.deepcopy(grown())) == grafts_of(grown())


@pytest.mark.parametrize("path", ["0", "0@input", "0.0", "0.1", "1", "3@input", "3"])
def test_a_feature_is_still_read_where_it_was(path):
    plain, inputs = cnn(), torch.randn(2, 1, 8, 8)
    before = Taps(plain, [path], inputs)(inputs)[1][path]
    network = cnn()
    graft(network, "0", "after", [nn.Conv2d(4, 4, 1)])
    graft(network, "3", "before", [nn.Linear(4, 4)])
    moved = original_tap(path, grafts_of(network))
    after = Taps(network, [moved], inputs)(inputs)[1][moved]
    upstream = {"0", "0@input", "0.0", "0.1"}  # what comes later is made of other values
    assert after.shape == before.shape
    assert torch.equal(after, before) == (path in upstream)


@pytest.mark.parametrize(("path", "place"), [("0", "after"), ("1@input", "before"), ("3@input", "before")])
def test_what_a_graft_makes_of_a_feature_is_read_behind_it(path, place):
    network, inputs = cnn(), torch.randn(2, 1, 8, 8)
    layer = nn.Linear(4, 4) if path.startswith("3") else nn.Conv2d(4, 4, 1)
    feature = Taps(network, [path], inputs)(inputs)[1][path]
    graft(network, path.removesuffix("@input"), place, [layer])
    moved = grafted_tap(path, grafts_of(network))
    torch.testing.assert_close(Taps(network, [moved], inputs)(inputs)[1][moved], layer(feature))


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([{"path": "9", "place": "after", "layers": []}], "has no module '9'"),
        ([{"path": "0", "place": "beneath", "layers": []}], "no place 'beneath'"),
        ([{"path": "0", "place": "after", "layers": [["Bilinear", {}]]}], "no layer 'Bilinear'"),
        ([{"path": "0", "place": "after", "layers": [["Linear", {"in": 3}]]}], "unexpected keyword"),
        ([{"place": "after"}], "can't put"),
        ([{"path": "", "place": "after", "layers": []}], "single layer"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(records, words):
    with pytest.raises(ModelError, match=words):
        regraft(cnn(), records)


def test_a_layer_that_no_json_can_tell_is_refused():
    with pytest.raises(TypeError, match="Softplus can't be put"):
        graft(cnn(), "0", "after", [nn.Softplus()])
