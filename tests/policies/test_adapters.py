"""Adapters of peft: they begin without effect, they and the head alone learn, and merged they are the plain network."""

import copy
import importlib.util

import pytest
import torch
from torch import nn

from transfuse import policies
from transfuse.core.types import ModelRequest
from transfuse.errors import MissingExtra, RecipeError
from transfuse.models import open_model
from transfuse.models.groups import layer_groups

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
KINDS = [
    ("lora", {}),
    ("lora", {"dora": True, "rank": 2}),
    ("lora", {"rslora": True, "dropout": 0.1}),
    ("loha", {}),
    ("lokr", {}),
    ("ia3", {}),
]


def dressed(name, settings, seed=3):
    model = open_model("builtin:resnet8", ModelRequest(outputs=3, input_shape=(3, 16, 16)))
    policy = policies.get(name)(**settings)
    groups = layer_groups(model.network, torch.zeros(1, 3, 16, 16))
    policy.dress(model.network, groups[-1].parameters, seed)
    return model.network, policy, groups[-1].parameters


@needs_peft
@pytest.mark.parametrize(("name", "settings"), KINDS)
def test_adapters_begin_without_effect_learn_alone_and_merge(name, settings):
    plain = open_model("builtin:resnet8", ModelRequest(outputs=3, input_shape=(3, 16, 16))).network.eval()
    inputs = torch.randn(4, 3, 16, 16)
    network, policy, head = dressed(name, settings)
    torch.testing.assert_close(network.eval()(inputs), plain(inputs))
    (phase,) = policy.phases(layer_groups(network, torch.zeros(1, 3, 16, 16), head))
    trained = {id(parameter) for rate in phase.rates for parameter in rate.parameters}
    original = {id(parameter) for key, parameter in network.named_parameters() if "base_layer" in key}
    assert original
    assert not trained & original
    assert {id(parameter) for parameter in head} <= trained
    with torch.no_grad():
        for parameter in phase.rates[0].parameters:
            parameter.add_(0.1 * torch.randn_like(parameter))
    said = network(inputs)
    assert not torch.allclose(said, plain(inputs), atol=1e-3)
    policy.undress(network)
    assert list(network.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(network.eval()(inputs), said, rtol=1e-4, atol=1e-5)


@needs_peft
def test_the_seed_alone_decides_how_adapters_begin():
    states = [dressed("lora", {}, seed)[0].state_dict() for seed in (3, 3, 4)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not all(torch.equal(states[0][key], states[2][key]) for key in states[0])


@needs_peft
def test_a_network_that_has_nothing_to_adapt_is_refused():
    head = nn.Linear(4, 2)
    with pytest.raises(RecipeError, match="nothing to adapt"):
        policies.get("lora")().dress(nn.Sequential(nn.ReLU(), head), tuple(head.parameters()), 0)
    with pytest.raises(RecipeError, match="called query or value"):
        policies.get("lora")(targets=["query", "value"]).dress(nn.Sequential(nn.Linear(4, 4), head), tuple(head.parameters()), 0)


def test_without_the_package_one_line_names_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtra, match=r"needs the package peft") as caught:
        policies.get("lora")().dress(copy.deepcopy(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))), (), 0)
    assert "transfuse[peft]" in str(caught.value)
