"""The geometric ensemble."""

import numpy as np
import torch

from tests.fusion.outputs.panel import said
from transfuse.fusion.outputs.mean_logits import MeanLogits, mean_logits


def test_it_is_the_normalised_geometric_mean_of_the_probabilities():
    outputs, _ = said(50)
    values = outputs.numpy()
    p = np.exp(values) / np.exp(values).sum(-1, keepdims=True)
    geometric = np.exp(np.log(p).mean(0))
    assert np.allclose(mean_logits(outputs).exp().numpy(), geometric / geometric.sum(1, keepdims=True), atol=1e-12)


def test_one_source_can_veto_a_class():
    outputs = torch.tensor([[[5.0, 0.0]], [[-200.0, 0.0]]])
    assert float(mean_logits(outputs).exp()[0, 0]) < 1e-30


def test_of_several_labels_and_of_numbers_it_is_the_mean():
    for task in ("multilabel", "regression"):
        outputs, _ = said(20, task=task)
        rule = MeanLogits(task)
        rule.build(*outputs.shape[::2])
        assert torch.allclose(rule(outputs), outputs.mean(0))
        assert torch.allclose(rule.source_weights(), torch.full((3,), 1 / 3))
