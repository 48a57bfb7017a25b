"""StochNorm against per-channel loops; dressing changes neither names nor what is said in eval mode."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from transfuse.errors import RecipeError
from transfuse.policies.stoch_norm import StochNorm, stochastic_norm


def network():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4, 3))
    made[1].running_mean.normal_()
    made[1].running_var.uniform_(0.5, 2)
    nn.init.normal_(made[1].weight)
    return made


def test_each_channel_is_normalised_by_one_of_both_statistics():
    made = network()
    inputs = torch.randn(5, 2, 4, 4)
    hidden = made[0](inputs)
    norm = copy.deepcopy(made[1]).requires_grad_(False)
    StochNorm(probability=0.5).dress(made, (), 0)
    torch.manual_seed(7)
    chosen = torch.rand(4) < 0.5
    assert 0 < int(chosen.sum()) < 4
    torch.manual_seed(7)
    found = made[1].train()(hidden)
    values = hidden.detach().double().numpy()
    for channel in range(4):
        own = values[:, channel]
        mean = float(norm.running_mean[channel]) if chosen[channel] else own.mean()
        variance = float(norm.running_var[channel]) if chosen[channel] else own.var()
        expected = (own - mean) / np.sqrt(variance + norm.eps) * float(norm.weight[channel]) + float(norm.bias[channel])
        np.testing.assert_allclose(found[:, channel].detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    norm.train()(hidden)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(getattr(made[1], name), getattr(norm, name))


def test_probability_0_is_batchnorm_and_1_the_pretrained_statistics():
    inputs = torch.randn(5, 2, 4, 4)
    for probability, training in ((0.0, True), (1.0, False)):
        made, plain = network(), network()
        StochNorm(probability=probability).dress(made, (), 0)
        torch.testing.assert_close(made.train()(inputs), plain.train(training)(inputs))


def test_dressing_keeps_names_values_and_parameters_and_undressing_gives_a_plain_network_with_new_statistics():
    made, inputs = network(), torch.randn(6, 2, 4, 4)
    before, parameters, said = made.state_dict(), list(made.parameters()), made.eval()(inputs)
    policy = StochNorm()
    policy.dress(made, (), 0)
    assert list(made.state_dict()) == list(before)
    assert all(one is other for one, other in zip(made.parameters(), parameters, strict=True))
    assert torch.equal(made.eval()(inputs), said)
    made.train()(inputs).sum().backward()
    assert made[1].weight.grad is not None
    moved = made[1].running_mean.clone()
    assert not torch.equal(moved, network()[1].running_mean)
    policy.undress(made)
    assert type(made[1]) is nn.BatchNorm2d
    assert torch.equal(made[1].running_mean, moved)
    assert all(one is other for one, other in zip(made.parameters(), parameters, strict=True))


def test_a_network_without_batchnorm_is_refused():
    with pytest.raises(RecipeError, match="no BatchNorm"):
        StochNorm().dress(nn.Sequential(nn.Linear(2, 2)), (), 0)


def test_the_mixture_is_one_or_the_other():
    moving, batch = torch.zeros(2, 3, 2), torch.ones(2, 3, 2)
    found = stochastic_norm(torch.zeros(2, 3, 2), moving, batch, torch.tensor([1.0, 0.0, 1.0]))
    assert found[0, :, 0].tolist() == [0.0, 1.0, 0.0]
