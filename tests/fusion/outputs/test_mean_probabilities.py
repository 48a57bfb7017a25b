"""The plain ensemble."""

import numpy as np
import pytest
import torch

from tests.fusion.outputs.panel import fitted, said
from transfuse.fusion import outputs as rules
from transfuse.fusion.outputs.mean_probabilities import MeanProbabilities, mean_probabilities


def test_it_is_the_mean_of_the_softmaxes():
    outputs, _ = said(50)
    values = outputs.numpy()
    p = np.exp(values) / np.exp(values).sum(-1, keepdims=True)
    assert np.allclose(mean_probabilities(outputs).exp().numpy(), p.mean(0), atol=1e-12)


def test_of_several_labels_it_is_the_mean_of_the_sigmoids_and_of_numbers_the_mean():
    outputs, _ = said(50, task="multilabel")
    expected = (1 / (1 + np.exp(-outputs.numpy()))).mean(0)
    assert np.allclose(torch.sigmoid(mean_probabilities(outputs, "multilabel")).numpy(), expected, atol=1e-12)
    outputs, _ = said(50, task="regression")
    assert torch.allclose(mean_probabilities(outputs, "regression"), outputs.mean(0))


def test_the_order_of_sources_and_a_constant_on_their_logits_change_nothing():
    outputs, _ = said(50)
    moved = outputs[[2, 0, 1]] + torch.tensor([5.0, -3.0, 100.0], dtype=torch.float64)[:, None, None]
    assert torch.allclose(mean_probabilities(outputs), mean_probabilities(moved), atol=1e-10)


def test_a_class_that_all_but_one_rule_out_stays_possible_and_finite():
    outputs = torch.tensor([[[0.0, -1e4]], [[-1e4, 0.0]]])
    assert torch.allclose(mean_probabilities(outputs).exp(), torch.tensor([[0.5, 0.5]]))


@pytest.mark.parametrize("name", rules.names())
def test_every_rule_gives_probabilities_in_fp32_and_forgets_nothing_when_saved(name):
    outputs, labels = said()
    rule = fitted(rules.get(name)(calibrate=True), outputs, labels)
    log_p = rule.fuse(outputs.half())
    assert log_p.dtype == torch.float32
    assert torch.allclose(log_p.exp().sum(1), torch.ones(len(labels)), atol=1e-5)
    again = rules.get(name)(calibrate=True)
    again.build(*outputs.shape[::2])
    again.load_state_dict(rule.state_dict())
    assert torch.equal(again(outputs), rule(outputs))


@pytest.mark.parametrize("name", rules.names())
def test_samples_without_a_label_are_not_looked_at(name):
    outputs, labels = said(200)
    more = torch.cat([outputs, torch.full((3, 20, 4), 7.0, dtype=torch.float64)], 1)
    rule = fitted(rules.get(name)(calibrate=True), outputs, labels)
    other = fitted(rules.get(name)(calibrate=True), more, torch.cat([labels, torch.full((20,), -1)]))
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in rule.state_dict().items())


def test_predictions_of_a_regression_have_no_temperature():
    with pytest.raises(ValueError, match="no temperature"):
        MeanProbabilities("regression", calibrate=True)
