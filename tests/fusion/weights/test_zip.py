"""ZipIt."""

import pytest
import torch
from torch import nn

from tests.fusion.networks import built, calibration, mlp, outputs, parents, pictures, stirred
from tests.fusion.weights.test_weight_matching import mixed_up
from transfuse.fusion.alignment.matching import correlations
from transfuse.fusion.alignment.tracing import trace
from transfuse.fusion.weights.zip import Zip, joined_channels, matched_pairs, zip


@pytest.mark.parametrize("name", ["mlp", "resnet8"])
def test_a_network_and_its_permuted_copy_merge_to_that_function(name):
    shape = (3, 16, 16)
    inputs = pictures(16, shape)
    network = stirred(built(name, shape), 0)
    merged = Zip(repair="none", within=False).merge(parents(network, mixed_up(network, inputs)), calibration(inputs)).module
    wanted = outputs(network, inputs)
    assert torch.allclose(outputs(merged, inputs), wanted, atol=1e-4 * float(wanted.abs().max()))


class Gated(nn.Module):
    """Units that stand twice in the outputs of one layer, and beside them channels with several entries each."""

    def __init__(self):
        super().__init__()
        self.into, self.branch, self.head = nn.Linear(16, 12), nn.Conv1d(1, 3, 5), nn.Linear(6 + 3 * 12, 5)

    def forward(self, inputs):
        rows = inputs.flatten(1)
        value, gate = self.into(rows).chunk(2, 1)
        return self.head(torch.cat([value * gate.sigmoid(), self.branch(rows[:, None]).relu().flatten(1)], 1))


@pytest.mark.parametrize("made", [mlp, Gated])
def test_repaired_units_have_the_moments_of_their_pairs(made):
    torch.manual_seed(0)
    network, inputs = made().eval(), pictures(64)
    given = calibration(inputs, batch=64)  # REPAIR works by each batch's statistics, so that of several no network is its own fixed point
    merged = Zip(repair="units", within=False).merge(parents(network, mixed_up(network, inputs)), given)
    ratios = merged.figures["std before repair / std wanted"].values()
    assert len(ratios) == 2
    assert all(ratio == pytest.approx(1.0, abs=1e-3) for ratio in ratios)
    wanted = outputs(network, inputs)
    assert torch.allclose(outputs(merged.module, inputs), wanted, atol=1e-4 * float(wanted.abs().max()))


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
    repaired = Zip(repair="units").merge(parents(one, other), calibration(inputs))
    assert torch.allclose(outputs(repaired.module, inputs), wanted, atol=1e-4)
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


def test_channels_in_no_group_have_the_mean_of_both_networks():
    network, inputs = mlp(0, widths=[4, 4]), pictures(16)
    specification = trace(network, inputs)
    first, second = specification.groups
    pairs = {first: torch.tensor([[0, 1], [2, 6], [3, 4], [5, 7]])}
    values = [torch.tensor([1.0, 2.0, 3.0, 4.0]).double(), torch.tensor([10.0, 20.0, 30.0, 40.0]).double()]
    assert joined_channels(specification, pairs, first.removesuffix(".weight"), values).tolist() == [1.5, 16.5, 7.0, 30.0]
    assert joined_channels(specification, pairs, second.removesuffix(".weight"), values).tolist() == [5.5, 11.0, 16.5, 22.0]


def test_the_function_on_states_says_the_same_as_the_class():
    one, other, inputs = mlp(0, batchnorm=True), mlp(1, batchnorm=True), pictures(64)
    specification = trace(one, inputs)
    seen = correlations(one, other, specification, inputs.split(16))
    made = zip([one.state_dict(), other.state_dict()], specification, {name: matched_pairs(seen, name) for name in specification.groups})
    merged = Zip(repair="none").merge(parents(one, other), calibration(inputs)).module.state_dict()
    assert all(torch.equal(made[name], tensor) for name, tensor in merged.items())
    assert made["layers.0.norm.num_batches_tracked"].dtype == torch.int64
