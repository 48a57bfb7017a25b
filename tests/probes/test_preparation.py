"""What features go through before a head, and that it is folded into the layer that is shipped."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from torch import nn

from transfuse.errors import DataError
from transfuse.probes.assembly import ending, fitted_factor, sharpened
from transfuse.probes.knn import KNN
from transfuse.probes.mlp import MLP
from transfuse.probes.preparation import fit_preparation
from transfuse.probes.ridge import Ridge


@pytest.mark.parametrize("components", [None, 5, 0.8])
def test_it_is_a_scaler_and_principal_components(diabetes, components):
    problem, features, _ = diabetes
    preparation = fit_preparation(problem.features, True, components, 0)
    scaler = StandardScaler().fit(problem.features.astype(np.float64))
    expected = scaler.transform(features.astype(np.float64))
    if components is not None:
        expected = PCA(components).fit(scaler.transform(problem.features.astype(np.float64))).transform(expected)
    found = preparation(features)
    assert found.shape == expected.shape == (len(features), preparation.width)
    assert np.abs(found) == pytest.approx(np.abs(expected), abs=1e-4), "up to the sign of a component"


@pytest.mark.parametrize("components", [None, 4])
def test_linear_heads_take_it_in(diabetes, rows, components):
    problem, features, _ = diabetes
    preparation = fit_preparation(problem.features, True, components, 0)
    problem = problem.select(np.arange(300))
    problem.features = preparation(problem.features)
    for head in (Ridge().fit(problem, {"penalty": 1.0}), MLP(hidden=[8], steps=2).fit(problem, {"weight_decay": 0.0})):
        layers = ending(preparation, head)
        assert [type(layer).__name__ for layer in layers] in (["Linear"], ["Linear", "ReLU", "Linear"])
        assert layers[0].in_features == features.shape[1]
        assert rows(nn.Sequential(*layers), features) == pytest.approx(rows(head, preparation(features)), abs=1e-4)
    neighbours = KNN().fit(problem, {"neighbours": 3})
    assert rows(nn.Sequential(*ending(preparation, neighbours)), features) == pytest.approx(rows(neighbours, preparation(features)))


def test_a_column_that_does_not_vary_becomes_zero():
    features = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    features[:, 1] = 7.1
    assert np.abs(fit_preparation(features, True, None, 0)(features)[:, 1]).max() < 1e-5


def test_too_many_components_are_refused():
    with pytest.raises(DataError, match="9 components of 8 rows with 12 columns") as caught:
        fit_preparation(np.zeros((8, 12), np.float32), True, 9, 0)
    assert "8 is the most" in str(caught.value)


def test_the_factor_of_margins_has_the_least_loss_and_changes_no_decision():
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(300, 3)) * 2, np.zeros(300, int)
    labels = np.array([random.choice(3, p=np.exp(row) / np.exp(row).sum()) for row in logits])
    factor = fitted_factor(logits / 5, labels, several=False)

    def loss(scale):
        scaled = scale * logits / 5
        return (np.log(np.exp(scaled).sum(1)) - scaled[np.arange(300), labels]).mean()

    assert factor == pytest.approx(5, rel=0.25)
    assert loss(factor) <= min(loss(0.97 * factor), loss(1.03 * factor))
    layer = nn.Linear(3, 3)
    inputs = torch.randn(5, 3)
    expected = 2.5 * layer(inputs)
    assert torch.allclose(sharpened(layer, 2.5)(inputs), expected, atol=1e-6)
    with pytest.raises(TypeError, match="ReLU"):
        sharpened(nn.ReLU(), 2.0)
