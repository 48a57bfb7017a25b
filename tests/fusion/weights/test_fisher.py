"""Fisher-weighted mean."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.fusion.networks import calibration, parents
from transfuse.errors import ModelError
from transfuse.fusion.weights.fisher import Fisher, diagonal_information, fisher


def test_the_formula():
    states = [{"w": torch.randn(4, dtype=torch.float64)} for _ in range(2)]
    information = [{"w": torch.rand(4, dtype=torch.float64)} for _ in range(2)]
    made = fisher(states, information, [2.0, 1.0])["w"]
    for place in range(4):
        amounts = [share * float(known["w"][place]) for share, known in zip((2.0, 1.0), information, strict=True)]
        wanted = sum(amount * float(state["w"][place]) for amount, state in zip(amounts, states, strict=True)) / sum(amounts)
        assert float(made[place]) == pytest.approx(wanted, rel=1e-12)


def test_without_information_it_is_the_plain_mean():
    states = [{"w": torch.zeros(2)}, {"w": torch.ones(2)}]
    assert fisher(states, [{"w": torch.zeros(2)}, {"w": torch.zeros(2)}])["w"].tolist() == [0.5, 0.5]
    assert fisher(states, [{}, {}], [3.0, 1.0])["w"].tolist() == [0.25, 0.25]


def test_information_of_a_linear_softmax_is_its_closed_form():
    # d log p_y / d W = (e_y - p) x^T, so E_y of its square at (k, i) is p_k (1 - p_k) x_i^2
    network = nn.Linear(3, 4, bias=False).double()
    inputs = torch.randn(6, 3, dtype=torch.float64)
    p = network(inputs).softmax(1).detach()
    wanted = torch.einsum("nk,ni->ki", p * (1 - p), inputs.square()) / 6
    found = diagonal_information(network, iter([(inputs[:4], torch.zeros(4)), (inputs[4:], torch.zeros(2))]))["weight"]
    assert torch.allclose(found.double(), wanted, rtol=1e-2, atol=1e-6)


def test_empirical_information_is_the_mean_of_squared_gradients_not_the_square_of_the_mean():
    network = nn.Linear(2, 3, bias=False).double()
    inputs, labels = torch.randn(5, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 1, 0])
    p = network(inputs).softmax(1).detach()
    gradient = torch.einsum("nk,ni->nki", torch.eye(3, dtype=torch.float64)[labels] - p, inputs)
    found = diagonal_information(network, iter([(inputs, labels)]), labels="data")["weight"]
    assert torch.allclose(found, gradient.square().mean(0), rtol=1e-5)


def test_outputs_in_another_order_than_the_labels_are_arranged():
    order = [2, 0, 1]  # class k is output order[k]; the fourth output is no class of the data
    torch.manual_seed(0)
    plain = [nn.Linear(3, 4, bias=False) for _ in range(2)]
    chosen = [nn.Linear(3, 3, bias=False) for _ in plain]
    for network, own in zip(plain, chosen, strict=True):
        own.weight.data = network.weight.data[order].clone()
    inputs, labels = torch.randn(12, 3), torch.arange(12) % 3
    given = calibration(inputs, labels=labels)
    for rule in (Fisher(labels="data", check_origin=False), Fisher(check_origin=False)):
        wanted = rule.merge(parents(*chosen), given).module.weight
        made = rule.merge(parents(*plain), replace(given, arrange=lambda outputs: outputs[:, order])).module.weight
        assert torch.allclose(made[order], wanted, atol=1e-6)
        assert torch.allclose(made[3], (plain[0].weight[3] + plain[1].weight[3]) / 2, atol=1e-6)  # no class depends on it


def test_a_single_logit_is_that_of_the_second_of_two_classes():
    network = nn.Linear(3, 1, bias=False).double()
    inputs, labels = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1, 0])
    p = network(inputs).sigmoid().detach()
    found = diagonal_information(network, iter([(inputs, labels)]))["weight"]
    assert torch.allclose(found, (p * (1 - p) * inputs.square()).mean(0, keepdim=True), rtol=1e-6)
    found = diagonal_information(network, iter([(inputs, labels)]), labels="data")["weight"]
    assert torch.allclose(found, ((labels[:, None] - p).square() * inputs.square()).mean(0, keepdim=True), rtol=1e-6)


def test_missing_labels_and_samples_are_refused():
    network = nn.Linear(2, 3)
    with pytest.raises(ModelError, match="class for every"):
        diagonal_information(network, iter([(torch.randn(1, 2), torch.tensor([-1]))]), labels="data")
    with pytest.raises(ModelError, match="no calibration samples"):
        diagonal_information(network, iter([]))


def test_a_merge_prefers_the_network_that_depends_on_a_weight():
    base = torch.randn(8, 8)
    networks = [nn.Linear(8, 8, bias=False) for _ in range(2)]
    for number, network in enumerate(networks):
        network.weight.data = base + 0.3 * torch.randn(8, 8, generator=torch.Generator().manual_seed(number))
    networks[1].weight.data[:, 0] = base[:, 0] + 9.0
    inputs = torch.randn(32, 8)
    inputs[:, 0] = 0.0  # no prediction depends on the first column, so both count the same there
    merged = Fisher(check_origin=False).merge(parents(*networks), calibration(inputs)).module
    mean = (networks[0].weight + networks[1].weight) / 2
    assert torch.allclose(merged.weight[:, 0], mean[:, 0], atol=1e-5)
    assert not torch.allclose(merged.weight[:, 1:], mean[:, 1:], atol=1e-3)
