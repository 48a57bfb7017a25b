"""Reordering units."""

import pytest
import torch
from torch import nn

from tests.fusion.networks import mlp, outputs, pictures
from transfuse.errors import ModelError
from transfuse.fusion.alignment.permuting import identity, permuted, shuffled, units, with_permuted_units
from transfuse.fusion.alignment.tracing import Group, Part, Specification, trace


def test_new_unit_i_is_old_unit_permutation_i():
    network = mlp()
    specification = trace(network, pictures())
    order = shuffled(specification)
    made = permuted(network.state_dict(), specification, order)
    first, second = order["layers.0.linear.weight"], order["layers.1.linear.weight"]
    assert torch.equal(made["layers.0.linear.weight"], network.layers[0].linear.weight[first])
    assert torch.equal(made["layers.0.linear.bias"], network.layers[0].linear.bias[first])
    assert torch.equal(made["layers.1.linear.weight"], network.layers[1].linear.weight[second][:, first])
    assert torch.equal(made["linear.weight"], network.linear.weight[:, second])
    assert torch.equal(made["linear.bias"], network.linear.bias)


def test_stretches_with_runs_are_moved_as_a_whole():
    # axis of 1 + 2 * (3 units of 2 entries) + 1 entries
    group = Group("g", 3, (Part("w", 0, 1, 2, 2, False, True),), ())
    specification = Specification({"g": group}, {"w": (14,)})
    made = permuted({"w": torch.arange(14)}, specification, {"g": torch.tensor([2, 0, 1])})["w"]
    assert made.tolist() == [0, 5, 6, 1, 2, 3, 4, 11, 12, 7, 8, 9, 10, 13]
    rows = units(torch.arange(14.0), group, group.parts[0])
    assert rows.tolist() == [[1, 2, 7, 8], [3, 4, 9, 10], [5, 6, 11, 12]]


def test_there_and_back_is_the_same():
    network = mlp(batchnorm=True)
    specification = trace(network, pictures())
    order = shuffled(specification)
    back = {name: permutation.argsort() for name, permutation in order.items()}
    again = permuted(permuted(network.state_dict(), specification, order), specification, back)
    assert all(torch.equal(tensor, again[name]) for name, tensor in network.state_dict().items())
    same = permuted(network.state_dict(), specification, identity(specification))
    assert all(torch.equal(tensor, same[name]) for name, tensor in network.state_dict().items())


def test_the_copy_computes_the_same_and_the_original_stays():
    network, inputs = mlp(), pictures()
    before = network.layers[0].linear.weight.clone()
    specification = trace(network, inputs)
    copied = with_permuted_units(network, specification, shuffled(specification), inputs)
    assert torch.allclose(outputs(copied, inputs), outputs(network, inputs), atol=1e-5)
    assert torch.equal(network.layers[0].linear.weight, before)
    assert not torch.equal(copied.layers[0].linear.weight, before)


def test_a_specification_that_breaks_the_function_is_refused():
    network = nn.Linear(4, 4)
    wrong = Specification({"w": Group("w", 4, (Part("weight", 0, 0, 1, 1, False, True),), ())}, {"weight": (4, 4), "bias": (4,)})
    with pytest.raises(ModelError, match="computes something else"):
        with_permuted_units(network, wrong, {"w": torch.tensor([1, 0, 3, 2])}, torch.randn(3, 4))


def test_another_architecture_is_refused():
    specification = trace(mlp(), pictures())
    with pytest.raises(ModelError, match="has shape"):
        permuted(mlp(widths=[20, 16]).state_dict(), specification, identity(specification))
