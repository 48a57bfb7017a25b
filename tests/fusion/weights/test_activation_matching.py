"""Activation matching as a rule."""

import torch

from tests.fusion.networks import calibration, mlp, outputs, parents, pictures
from tests.fusion.weights.test_weight_matching import mixed_up
from transfuse.fusion.alignment.matching import correlations
from transfuse.fusion.alignment.tracing import trace
from transfuse.fusion.weights.activation_matching import ActivationMatching, activation_matching


def test_a_network_and_its_permuted_copy_merge_to_that_network():
    inputs = pictures(64)
    network = mlp(batchnorm=True)
    merged = ActivationMatching(repair="none").merge(parents(network, mixed_up(network, inputs)), calibration(inputs))
    assert torch.allclose(outputs(merged.module, inputs), outputs(network, inputs), atol=1e-4)
    assert merged.figures["share of units moved"]["b"] > 0.5


def test_units_that_say_the_same_at_another_scale_are_matched_where_weights_would_mislead():
    network, inputs = mlp(), pictures(64)
    other = mixed_up(network, inputs)
    with torch.no_grad():  # each unit ten times as loud, and heard a tenth
        other.layers[0].linear.weight.mul_(10)
        other.layers[0].linear.bias.mul_(10)
        other.layers[1].linear.weight.div_(10)
    merged = ActivationMatching(repair="none").merge(parents(network, other), calibration(inputs)).module
    wanted = 5.5 * network.layers[0].linear.weight
    assert torch.allclose(merged.layers[0].linear.weight, wanted, rtol=1e-4)


def test_the_function_on_states_says_the_same_as_the_class():
    one, other, inputs = mlp(0), mlp(1), pictures(64)
    seen = correlations(one, other, trace(one, inputs), inputs.split(16))
    made = activation_matching([one.state_dict(), other.state_dict()], [seen])
    merged = ActivationMatching(repair="none").merge(parents(one, other), calibration(inputs)).module.state_dict()
    assert all(torch.equal(made[name], tensor) for name, tensor in merged.items())
