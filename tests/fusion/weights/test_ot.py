"""Optimal-transport fusion."""

import pytest
import torch

from tests.fusion.networks import built, calibration, mlp, outputs, parents, pictures, stirred
from tests.fusion.weights.test_weight_matching import mixed_up
from transfuse.errors import ModelError
from transfuse.fusion.alignment.tracing import trace
from transfuse.fusion.types import Parent
from transfuse.fusion.weights.ot import Ot, ot


def doubled(network, inputs):
    """Every hidden unit twice, each copy heard half: the same function at twice the width."""
    wide = mlp(widths=[2 * width for width in (24, 16)])
    state, specification = network.state_dict(), trace(network, inputs)
    made = {}
    for name, tensor in state.items():
        for _, part in specification.parts_of(name):
            tensor = torch.cat([tensor, tensor], part.axis) / (2 if part.consumes else 1)
        made[name] = tensor
    wide.load_state_dict(made)
    return wide


@pytest.mark.parametrize("by", ["activations", "weights"])
def test_a_network_and_its_permuted_copy_merge_to_that_network(by):
    network, inputs = mlp(), pictures(64)
    merged = Ot(by=by, repair="none").merge(parents(network, mixed_up(network, inputs)), calibration(inputs)).module
    assert torch.allclose(outputs(merged, inputs), outputs(network, inputs), atol=1e-4)


@pytest.mark.parametrize("by", ["activations", "weights"])
@pytest.mark.parametrize("order", ["small first", "wide first"])
def test_a_network_of_twice_the_width_and_the_same_function_merges_to_that_function(by, order):
    network, inputs = mlp(), pictures(64)
    wide = doubled(network, inputs)
    assert torch.allclose(outputs(wide, inputs), outputs(network, inputs), atol=1e-4)
    given = parents(network, wide) if order == "small first" else parents(wide, network)
    merged = Ot(by=by, repair="none").merge(given, calibration(inputs)).module
    assert merged.layers[0].linear.weight.shape[0] == (24 if order == "small first" else 48)
    assert torch.allclose(outputs(merged, inputs), outputs(network, inputs), atol=1e-4)


def test_all_weight_on_the_other_network_gives_its_function_in_the_first_one_s_width():
    network, inputs = mlp(3), pictures(64)
    given = [Parent("a", mlp(4, widths=[24, 16]), 0.0), Parent("b", doubled(network, inputs), 1.0)]
    merged = Ot(repair="none").merge(given, calibration(inputs)).module
    # which unit lands where depends on the other network, but 48 units led to 24 by a plan keep every output's bias
    assert torch.allclose(merged.linear.bias, network.linear.bias)


def test_convolutions_with_a_residual_sum_are_led_over():
    inputs = pictures(8, (3, 16, 16))
    network = stirred(built("resnet8", (3, 16, 16)), 0)
    merged = Ot(repair="none").merge(parents(network, mixed_up(network, inputs)), calibration(inputs)).module
    wanted = outputs(network, inputs)
    assert torch.allclose(outputs(merged, inputs), wanted, atol=1e-4 * float(wanted.abs().max()))


def test_the_function_on_states_says_the_same_as_the_class():
    one, other, inputs = mlp(0), mlp(1, widths=[12, 20]), pictures(64)
    made = ot([one.state_dict(), other.state_dict()], [trace(one, inputs), trace(other, inputs)])
    merged = Ot(by="weights", repair="none").merge(parents(one, other), calibration(inputs)).module.state_dict()
    assert all(torch.equal(made[name], tensor) for name, tensor in merged.items())


def test_units_of_another_width_get_the_first_network_s_scale_back():
    one, other, inputs = mlp(0), mlp(1, widths=[30, 20]), pictures(64)
    merged = Ot().merge(parents(one, other), calibration(inputs)).module
    spreads = []
    for network in (one, merged):
        seen = []
        hook = network.layers[0].linear.register_forward_hook(lambda _m, _g, made, seen=seen: seen.append(made.detach()))
        outputs(network, inputs)
        hook.remove()
        spreads.append(torch.cat(seen).double().std(0, correction=0))
    assert torch.allclose(spreads[0], spreads[1], rtol=1e-3)


def test_another_depth_and_another_number_of_outputs_are_refused():
    inputs = pictures(64)
    with pytest.raises(ModelError, match="different layers"):
        Ot().merge(parents(mlp(), mlp(widths=[24, 16, 8])), calibration(inputs))
    other = mlp()
    other.linear = torch.nn.Linear(16, 7)
    with pytest.raises(ModelError, match="axis that has to stay"):
        Ot().merge(parents(mlp(), other), calibration(inputs))
