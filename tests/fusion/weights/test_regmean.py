"""RegMean."""

import pytest
import torch
from torch import nn

from transfuse.fusion.weights.regmean import input_products, regmean


def pair(outputs=3, inputs=4, rows=(20, 30)):
    weights = [torch.randn(outputs, inputs, dtype=torch.float64) for _ in rows]
    given = [torch.randn(count, inputs, dtype=torch.float64) @ torch.randn(inputs, inputs, dtype=torch.float64) for count in rows]
    return weights, given


def test_at_full_strength_it_solves_the_stacked_least_squares():
    weights, given = pair()
    made = regmean([{"w": one} for one in weights], [{"w": x.T @ x} for x in given], off_diagonal=1.0)["w"]
    targets = torch.cat([x @ w.T for w, x in zip(weights, given, strict=True)])
    wanted = torch.linalg.lstsq(torch.cat(given), targets).solution.T
    assert torch.allclose(made, wanted, atol=1e-9)


def test_the_paper_s_formula_with_damped_products():
    weights, given = pair()
    grams = [x.T @ x for x in given]
    damped = [0.9 * gram + 0.1 * torch.diag(gram.diagonal()) for gram in grams]
    wanted = (torch.linalg.inv(sum(damped)) @ sum(g @ w.T for g, w in zip(damped, weights, strict=True))).T
    made = regmean([{"w": one} for one in weights], [{"w": gram} for gram in grams])["w"]
    assert torch.allclose(made, wanted, atol=1e-9)


def test_without_products_of_different_inputs_every_input_is_weighted_by_its_energy():
    weights, given = pair()
    energy = [x.square().sum(0) for x in given]
    made = regmean([{"w": one} for one in weights], [{"w": x.T @ x} for x in given], off_diagonal=0.0)["w"]
    assert torch.allclose(made, (weights[0] * energy[0] + weights[1] * energy[1]) / (energy[0] + energy[1]), atol=1e-9)


@pytest.mark.parametrize("off_diagonal", [0.9, 1.0])
def test_inputs_that_are_never_active_keep_the_mean(off_diagonal):
    weights, given = pair()
    for x in given:
        x[:, 2] = 0.0
    made = regmean([{"w": one} for one in weights], [{"w": x.T @ x} for x in given], off_diagonal)["w"]
    assert torch.allclose(made[:, 2], (weights[0] + weights[1])[:, 2] / 2)


def test_biases_are_the_plain_mean():
    assert regmean([{"b": torch.zeros(2)}, {"b": torch.ones(2)}], [{}, {}])["b"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 3, 3, padding=1),
        nn.Conv2d(2, 3, (2, 3), stride=2, padding=(1, 0), dilation=(2, 1)),
        nn.Conv2d(2, 3, (5, 3), padding="same", dilation=(1, 2)),
        nn.Conv2d(2, 3, 1),
    ],
)
def test_a_convolution_is_linear_in_the_patches_that_are_counted(layer):
    """sum over patches of (w . patch)^2 = w G w^T is the energy of its outputs."""
    layer = layer.double()
    layer.bias.data.zero_()
    inputs = torch.randn(4, 2, 6, 7, dtype=torch.float64)
    gram = input_products(nn.Sequential(layer), [inputs[:3], inputs[3:]])["0.weight"]
    flat = layer.weight.detach().flatten(1)
    assert torch.allclose(layer(inputs).detach().square().sum((0, 2, 3)), torch.einsum("oi,ij,oj->o", flat, gram, flat))


def test_tokens_are_rows_and_grouped_convolutions_are_left_out():
    layer = nn.Linear(3, 2)
    inputs = torch.randn(2, 5, 3)
    rows = inputs.flatten(0, 1).double()
    assert torch.allclose(input_products(nn.Sequential(layer), [inputs])["0.weight"], rows.T @ rows)
    assert input_products(nn.Conv2d(2, 2, 3, groups=2), [torch.randn(1, 2, 4, 4)]) == {}
