"""REPAIR and the re-estimation of BatchNorm's statistics."""

import copy

import pytest
import torch
from torch import nn

from tests.fusion.networks import mlp, outputs, pictures, stirred
from transfuse.fusion.repair import repair_units, reset_statistics, unnormalised_layers


def units(network, path, inputs):
    seen = []
    hook = network.get_submodule(path).register_forward_hook(lambda _m, _g, made: seen.append(made.detach().double()))
    outputs(network, inputs)
    hook.remove()
    return torch.cat(seen)


def test_mean_and_spread_become_the_weighted_means_of_the_parents():
    parents, inputs = [mlp(1), mlp(2)], pictures(64)
    merged = mlp(3)
    ratios = repair_units(merged, parents, lambda: [inputs], weights=[3.0, 1.0])
    assert list(ratios) == ["layers.0.linear", "layers.1.linear"]
    for path in ratios:
        made, known = units(merged, path, inputs), [units(parent, path, inputs) for parent in parents]
        alive = made.std(0) > 0
        assert torch.allclose(made.mean(0), 0.75 * known[0].mean(0) + 0.25 * known[1].mean(0), atol=1e-5)
        wanted = 0.75 * known[0].std(0, correction=0) + 0.25 * known[1].std(0, correction=0)
        assert torch.allclose(made.std(0, correction=0)[alive], wanted[alive], rtol=1e-4)


def test_the_ratio_says_how_far_the_spread_had_collapsed():
    parent, inputs = mlp(1), pictures(64)
    merged = copy.deepcopy(parent)
    with torch.no_grad():
        merged.layers[0].linear.weight.mul_(0.25)
    assert repair_units(merged, [parent, parent], lambda: [inputs])["layers.0.linear"] == pytest.approx(0.25, rel=1e-4)
    assert torch.allclose(outputs(merged, inputs), outputs(parent, inputs), atol=1e-4)


def test_a_repaired_network_repaired_again_stays():
    merged, parents, inputs = mlp(3), [mlp(1), mlp(2)], pictures(64)
    repair_units(merged, parents, lambda: inputs.split(64))
    before = copy.deepcopy(merged.state_dict())
    ratios = repair_units(merged, parents, lambda: inputs.split(64))
    assert all(torch.allclose(tensor, before[name], atol=1e-5) for name, tensor in merged.state_dict().items())
    assert all(ratio == pytest.approx(1.0, abs=1e-4) for ratio in ratios.values())


def test_layers_without_biases_are_only_rescaled():
    parents, inputs = [mlp(1, bias=False), mlp(2, bias=False)], pictures(64)
    merged = mlp(3, bias=False)
    before = merged.layers[0].linear.weight.clone()
    repair_units(merged, parents, lambda: [inputs])
    factors = merged.layers[0].linear.weight / before
    assert torch.allclose(factors, factors[:, :1].expand_as(factors), rtol=1e-4)
    wanted = sum(units(parent, "layers.0.linear", inputs).std(0, correction=0) for parent in parents) / 2
    assert torch.allclose(units(merged, "layers.0.linear", inputs).std(0, correction=0), wanted, rtol=1e-4)
    assert "layers.0.linear.bias" not in merged.state_dict()


def test_a_dead_unit_stays_as_it_is():
    parents, inputs = [mlp(1), mlp(2)], pictures(64)
    merged = mlp(3)
    with torch.no_grad():
        merged.layers[0].linear.weight[5] = 0
    repair_units(merged, parents, lambda: [inputs])
    assert torch.equal(merged.layers[0].linear.weight[5], torch.zeros(16))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in merged.state_dict().values())


def test_convolutions_are_repaired_per_channel_and_tokens_per_unit():
    class Mixed(nn.Module):
        def __init__(self, seed):
            super().__init__()
            torch.manual_seed(seed)
            self.conv, self.token, self.head = nn.Conv2d(1, 6, 3), nn.Linear(6, 7), nn.Linear(7, 2)

        def forward(self, inputs):
            return self.head(self.token(self.conv(inputs).relu().flatten(2).transpose(1, 2)).relu().mean(1))

    parents, merged, inputs = [Mixed(1), Mixed(2)], Mixed(3), pictures(32)
    assert unnormalised_layers(merged, inputs) == ["conv", "token"]
    repair_units(merged, parents, lambda: [inputs])
    for path, over in (("conv", (0, 2, 3)), ("token", (0, 1))):
        wanted = sum(units(parent, path, inputs).std(over, correction=0) for parent in parents) / 2
        assert torch.allclose(units(merged, path, inputs).std(over, correction=0), wanted, rtol=1e-4)


def test_layers_that_batchnorm_follows_the_last_one_and_shared_ones_are_left_out():
    assert unnormalised_layers(mlp(batchnorm=True), pictures()) == []
    shared = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 2))
    shared[3].weight = shared[1].weight
    assert unnormalised_layers(shared, pictures()) == ["5"]


def test_statistics_are_the_mean_over_batches_in_one_pass():
    network, inputs = mlp(batchnorm=True), pictures(48)
    count = reset_statistics(network, [inputs[:16], inputs[16:48], inputs[:1]])  # a batch of one has no variance
    assert count == 2
    hidden = units(network, "layers.0.linear", inputs)
    batches = [hidden[:16], hidden[16:48]]
    norm = network.layers[0].norm
    assert torch.allclose(norm.running_mean.double(), sum(batch.mean(0) for batch in batches) / 2, atol=1e-6)
    assert torch.allclose(norm.running_var.double(), sum(batch.var(0) for batch in batches) / 2, rtol=1e-5)
    assert norm.num_batches_tracked == 2
    assert norm.momentum == 0.1


def test_only_normalisation_is_in_training_mode_meanwhile():
    network = mlp(batchnorm=True, dropout=0.9)
    network.train()
    seen = []
    network.layers[0].dropout.register_forward_hook(lambda module, _g, _m: seen.append(module.training))
    reset_statistics(network, [pictures()])
    assert seen == [False]
    assert network.training


def test_no_usable_batch_is_refused_and_momenta_stay():
    network = mlp(batchnorm=True)
    with pytest.raises(ValueError, match="two samples"):
        reset_statistics(network, [pictures(1)])
    assert network.layers[0].norm.momentum == 0.1


def test_networks_without_batchnorm_need_no_inputs():
    assert reset_statistics(mlp(), iter([])) == 0


def test_averaging_collapses_spread_and_repair_undoes_it():
    one, other, inputs = mlp(1, widths=[200, 200]), mlp(2, widths=[200, 200]), pictures(64)
    middle = stirred(one, 0, 0.0)
    middle.load_state_dict({name: (tensor + other.state_dict()[name]) / 2 for name, tensor in one.state_dict().items()})
    ratios = repair_units(middle, [one, other], lambda: [inputs])
    assert ratios["layers.0.linear"] < 0.85
    assert ratios["layers.1.linear"] < 0.85
