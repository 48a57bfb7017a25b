"""Weights of sources: the minimum of a convex problem, told by its conditions and by another solver."""

import numpy as np
import torch
from scipy.optimize import minimize

from tests.fusion.outputs.panel import fitted, said
from transfuse.fusion.outputs.weighted import Weighted, closest_weights, likeliest_weights, weighted


def test_it_is_the_weighted_mean_of_the_softmaxes():
    outputs, _ = said(50)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    values = outputs.numpy()
    p = np.exp(values) / np.exp(values).sum(-1, keepdims=True)
    assert np.allclose(weighted(outputs, weights).exp().numpy(), np.einsum("s,snc->nc", weights.numpy(), p), atol=1e-12)


def test_a_weight_of_0_leaves_a_source_out_without_nan():
    outputs, _ = said(50)
    log_p = weighted(outputs, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))
    assert torch.allclose(log_p, outputs[1].log_softmax(-1))


def test_the_fitted_weights_meet_the_conditions_of_the_minimum_and_another_solver_finds_them():
    outputs, labels = said(600)
    rule = fitted(Weighted(), outputs, labels)
    weights = rule.weights.double().numpy()
    p = torch.softmax(outputs, -1)[:, torch.arange(len(labels)), labels].numpy()
    slopes = (p / (weights @ p)).mean(1)  # 1 where the weight is positive, at most 1 elsewhere
    assert np.allclose(slopes[weights > 1e-4], 1, atol=1e-4)
    assert (slopes < 1 + 1e-4).all()
    found = minimize(
        lambda w: -np.log(w @ p).mean(), np.full(3, 1 / 3), bounds=[(1e-9, 1)] * 3, constraints={"type": "eq", "fun": lambda w: w.sum() - 1}
    )
    assert np.allclose(weights, found.x, atol=2e-3)
    assert weights.sum() == 1 or abs(weights.sum() - 1) < 1e-6


def test_a_source_that_says_less_than_chance_gets_no_weight():
    right = torch.log(torch.full((100,), 0.9, dtype=torch.float64))
    assert float(likeliest_weights(torch.stack([right, torch.log(torch.full((100,), 0.05, dtype=torch.float64))]))[1]) < 1e-6


def test_weights_of_a_regression_are_a_constrained_least_squares():
    outputs, labels = said(300, task="regression")
    weights = closest_weights(outputs, labels).numpy()
    grid = np.stack([(a, b, 1 - a - b) for a in np.linspace(0, 1, 101) for b in np.linspace(0, 1 - a, 101)])
    errors = ((np.einsum("gs,sno->gno", grid, outputs.numpy()) - labels.numpy()) ** 2).mean((1, 2))
    own = ((np.einsum("s,sno->no", weights, outputs.numpy()) - labels.numpy()) ** 2).mean()
    assert own <= errors.min() + 1e-9
    assert (weights >= 0).all()
    rule = fitted(Weighted("regression"), outputs, labels)
    assert np.allclose(rule.source_weights().numpy(), weights, atol=1e-6)


def test_of_several_labels_weights_look_at_every_class():
    outputs, labels = said(500, task="multilabel")
    rule = fitted(Weighted("multilabel"), outputs, labels)
    p = torch.sigmoid(outputs)
    true = torch.where(labels > 0, p, 1 - p).flatten(1).numpy()
    slopes = (true / (rule.weights.double().numpy() @ true)).mean(1)
    assert np.allclose(slopes[rule.weights.numpy() > 1e-4], 1, atol=1e-4)
