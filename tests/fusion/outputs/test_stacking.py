"""Stacking: what the fitted matrix is, and that it learns what no weighting of sources can."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tests.fusion.outputs.panel import fitted, said
from transfuse.fusion.outputs import stacking as module
from transfuse.fusion.outputs.stacking import Stacking, stacked


def nll(log_p, labels):
    return float(-log_p[torch.arange(len(labels)), labels].mean())


def test_it_is_a_logistic_regression_on_the_sources_log_probabilities(monkeypatch):
    monkeypatch.setattr(module, "_STRENGTHS", (0.01,))
    outputs, labels = said(300)
    rule = fitted(Stacking(), outputs, labels)
    inputs = stacked(outputs, "classification").numpy()
    assert inputs.shape == (300, 12)
    scaled = (inputs - inputs.mean(0)) / inputs.std()
    plain = LogisticRegression(C=0.01, max_iter=1000).fit(scaled, labels.numpy())
    assert np.allclose(rule.fuse(outputs).exp().numpy(), plain.predict_proba(scaled), atol=1e-5)


def test_it_reads_a_source_whose_classes_are_in_another_order_where_a_mean_can_not():
    outputs, labels = said(800)
    turned = outputs[:1][:, :, [1, 2, 3, 0]]
    rule = fitted(Stacking(), turned[:, :400], labels[:400])
    assert (turned[0, 400:].argmax(1) == labels[400:]).float().mean() < 0.3
    assert (rule.fuse(turned[:, 400:]).argmax(1) == labels[400:]).float().mean() > 0.7


def test_before_it_is_fitted_it_is_the_mean_of_the_log_probabilities():
    outputs, _ = said(50)
    rule = Stacking()
    rule.build(*outputs.shape[::2])
    assert torch.allclose(rule.fuse(outputs), outputs.log_softmax(-1).clamp(min=-20).mean(0).log_softmax(-1), atol=1e-6)


def test_two_classes_get_two_columns():
    outputs, labels = said(300)
    outputs, labels = outputs[:, :, :2], labels.clamp(max=1)
    rule = fitted(Stacking(), outputs, labels)
    assert rule.fuse(outputs).shape == (300, 2)
    assert nll(rule.fuse(outputs), labels) < np.log(2)


def test_ridge_beats_the_best_source_of_a_regression_on_samples_it_has_not_seen():
    outputs, labels = said(400, task="regression")
    rule = fitted(Stacking("regression"), outputs[:, :200], labels[:200])
    errors = (rule.fuse(outputs[:, 200:]) - labels[200:]).square().mean()
    assert errors < (outputs[:, 200:] - labels[200:]).square().mean((1, 2)).min()


def test_a_class_with_a_single_sample_is_named():
    outputs, labels = said(100)
    labels = labels.clamp(max=2)
    labels[0] = 3
    with pytest.raises(ValueError, match="output 3 has 1 labelled sample;"):
        Stacking().fit(outputs, labels)
