"""The gate: its formula, its start, and a case where weights per sample are worth it."""

import numpy as np
import pytest
import torch

from tests.fusion.outputs.panel import fitted, said
from transfuse.fusion.outputs.gate import Gate, gate, signs
from transfuse.fusion.outputs.mean_probabilities import mean_probabilities
from transfuse.fusion.outputs.weighted import Weighted


def test_it_is_a_mixture_with_weights_from_each_sources_confidence():
    outputs, _ = said(30)
    random = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(3, 6, generator=random, dtype=torch.float64), torch.randn(3, generator=random, dtype=torch.float64)
    p = np.exp(outputs.numpy()) / np.exp(outputs.numpy()).sum(-1, keepdims=True)
    entropy = -(p * np.log(p)).sum(-1) / np.log(4)
    inputs = np.concatenate([p.max(-1), entropy]).T
    scores = inputs @ weight.numpy().T + bias.numpy()
    shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    log_p, log_gate = gate(outputs, weight, bias)
    assert np.allclose(signs(outputs.log_softmax(-1)).numpy(), inputs, atol=1e-10)
    assert np.allclose(log_gate.exp().numpy(), shares, atol=1e-10)
    assert np.allclose(log_p.exp().numpy(), np.einsum("ns,snc->nc", shares, p), atol=1e-10)


def test_it_starts_from_the_plain_mean_and_a_large_penalty_keeps_it_there():
    outputs, labels = said()
    rule = Gate()
    rule.build(*outputs.shape[::2])
    assert torch.allclose(rule.fuse(outputs), mean_probabilities(outputs), atol=1e-6)
    held = fitted(Gate(penalty=1e6), outputs, labels)
    assert torch.allclose(held.fuse(outputs), mean_probabilities(outputs), atol=1e-3)


def test_where_each_source_knows_its_own_samples_it_beats_fixed_weights_on_new_ones():
    outputs, labels = said(1200)
    half = torch.arange(1200) < 600
    one, other = outputs[0] * 1.0, outputs[0] * 1.0
    one[half], other[~half] = one[half] * 0.02, other[~half] * 0.02  # unsure about one half of the samples
    both = torch.stack([one, other])
    rows = torch.randperm(1200, generator=torch.Generator().manual_seed(0))
    fit, new = rows[:600], rows[600:]

    def loss(rule):
        rule.fit(both[:, fit], labels[fit])
        return float(-rule.fuse(both[:, new])[torch.arange(600), labels[new]].mean())

    assert loss(Gate()) < loss(Weighted()) - 0.05


def test_a_negative_penalty_is_refused():
    with pytest.raises(ValueError, match="at least 0"):
        Gate(penalty=-1.0)
