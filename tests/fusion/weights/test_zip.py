"""ZipIt."""

import pytest
import torch

from tests.fusion.networks import built, calibration, mlp, outputs, parents, pictures, stirred
from tests.fusion.weights.test_weight_matching import mixed_up
from transfuse.fusion.alignment.matching import correlations
from transfuse.fusion.alignment.tracing import trace
from transfuse.fusion.weights.zip import Zip, matched_pairs, zip


@pytest.mark.parametrize("name", ["mlp", "resnet8"])
def test_a_network_and_its_permuted_copy_merge_to_that_function(name):
    shape = (3, 16, 16)
    inputs = pictures(16, shape)
    network = stirred(built(name, shape), 0)
    merged = Zip(repair="none", within=False).merge(parents(network, mixed_up(network, inputs)), calibration(inputs)).module
    wanted = outputs(network, inputs)
    assert torch.allclose(outputs(merged, inputs), wanted, atol=1e-4 * float(wanted.abs().max()))


def test_units_of_one_network_that_say_the_same_make_room_for_two_of_the_other():
    # each network has its four units twice, and the two networks' units are unrelated: merged within, the mean of both networks remains
    inputs = pictures(256)

    def twice(seed):
        network = mlp(seed, widths=[8])
        with torch.no_grad():
            network.layers[0].linear.weight[4:] = network.layers[0].linear.weight[:4]
            network.layers[0].linear.bias[4:] = network.layers[0].linear.bias[:4]
        return network

    one, other = twice(1), twice(2)
    wanted = (outputs(one, inputs) + outputs(other, inputs)) / 2
    merged = Zip(repair="none").merge(parents(one, other), calibration(inputs))
    assert merged.figures["pairs within one source"] == 1.0
    assert torch.allclose(outputs(merged.module, inputs), wanted, atol=1e-4)
    across = Zip(repair="none", within=False).merge(parents(one, other), calibration(inputs))
    assert across.figures["pairs within one source"] == 0.0
    assert not torch.allclose(outputs(across.module, inputs), wanted, atol=1e-2)


def test_pairs_are_taken_in_falling_order_and_each_unit_once():
    one, other, inputs = mlp(0, widths=[6]), mlp(1, widths=[6]), pictures(64)
    specification = trace(one, inputs)
    seen = correlations(one, other, specification, [inputs])
    group = next(iter(specification.groups))
    pairs = matched_pairs(seen, group)
    assert sorted(pairs.flatten().tolist()) == list(range(12))
    values = torch.cat([outputs(network.layers, inputs.flatten(1)) if False else _hidden(network, inputs) for network in (one, other)], 1)
    table = torch.corrcoef(values.T.double()).nan_to_num(0.0)
    free, wanted = set(range(12)), []
    while free:  # the slow way
        best = max(((a, b) for a in free for b in free if a < b), key=lambda pair: float(table[pair]))
        wanted.append(best)
        free -= set(best)
    assert {tuple(pair) for pair in pairs.tolist()} == set(wanted)


def _hidden(network, inputs):
    with torch.no_grad():
        return network.layers[0](inputs.flatten(1))


def test_the_function_on_states_says_the_same_as_the_class():
    one, other, inputs = mlp(0, batchnorm=True), mlp(1, batchnorm=True), pictures(64)
    specification = trace(one, inputs)
    seen = correlations(one, other, specification, inputs.split(16))
    made = zip([one.state_dict(), other.state_dict()], specification, {name: matched_pairs(seen, name) for name in specification.groups})
    merged = Zip(repair="none").merge(parents(one, other), calibration(inputs)).module.state_dict()
    assert all(torch.equal(made[name], tensor) for name, tensor in merged.items())
    assert made["layers.0.norm.num_batches_tracked"].dtype == torch.int64
