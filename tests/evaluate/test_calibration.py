"""Reliability bins and ECE against a loop over bins."""

import itertools

import numpy as np
import pytest

from transfuse.evaluate import calibration, metrics


def slow_ece(confidence, correct, bins=15):
    edges = np.linspace(0, 1, bins + 1)
    total = 0.0
    for low, high in itertools.pairwise(edges):
        inside = [i for i in range(len(confidence)) if low < confidence[i] <= high]
        if inside:
            total += len(inside) / len(confidence) * abs(np.mean([correct[i] for i in inside]) - np.mean([confidence[i] for i in inside]))
    return total


def test_ece_agrees_with_a_loop_over_bins():
    random = np.random.default_rng(0)
    confidence = np.concatenate([random.random(500), np.linspace(0, 1, 16)[1:]])  # edges included
    correct = random.random(len(confidence)) < confidence**2
    assert calibration.ece(confidence, correct) == pytest.approx(slow_ece(confidence, correct), abs=1e-12)


def test_the_metric_is_the_same_ece():
    random = np.random.default_rng(1)
    logits, labels = random.normal(size=(300, 4)), random.integers(4, size=300)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = slow_ece(p.max(1), logits.argmax(1) == labels)
    assert metrics.compute("classification", logits, labels)["ece"] == pytest.approx(expected, abs=1e-9)


def test_confidence_that_comes_true_has_no_error():
    confidence = np.full(10, 0.8)
    correct = np.arange(10) < 8
    assert calibration.ece(confidence, correct) == pytest.approx(0)
    assert calibration.ece(confidence, ~correct) == pytest.approx(0.6)


def test_empty_bins_are_empty_and_counts_add_up():
    found = calibration.reliability(np.array([0.0, 0.5, 1.0]), np.array([True, False, True]), bins=4)
    assert found.count.tolist() == [1, 1, 0, 1]
    assert np.isnan(found.accuracy[2])
    assert found.accuracy[3] == 1
