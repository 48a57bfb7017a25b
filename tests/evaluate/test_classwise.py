"""Figures by class against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from transfuse.evaluate.calibration import reliability
from transfuse.evaluate.classwise import per_class, reliability_rows
from transfuse.evaluate.outcomes import outcomes


def test_precision_recall_and_f1_of_each_class_are_scikit_learns():
    random = np.random.default_rng(0)
    labels, logits = random.integers(5, size=200), random.normal(size=(200, 6))
    logits[:, 4] = -9  # never predicted; class 5 has no sample
    rows = per_class(outcomes("classification", logits, labels), [f"c{i}" for i in range(6)])
    expected = precision_recall_fscore_support(labels, logits.argmax(1), labels=range(6), zero_division=0)
    for number, row in enumerate(rows):
        for key, values in zip(("precision", "recall", "f1", "samples"), expected, strict=True):
            assert (row[key] or 0) == pytest.approx(values[number])
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for number, row in enumerate(rows[:5]):
        assert row["auroc"] == pytest.approx(roc_auc_score(labels == number, probabilities[:, number]))
    assert rows[5]["auroc"] is None
    assert rows[4]["precision"] is None
    assert rows[5]["recall"] is None
    assert rows[5]["samples"] == 0


def test_several_labels_are_counted_by_class():
    random = np.random.default_rng(1)
    labels, logits = (random.random((100, 3)) < 0.4).astype(float), random.normal(size=(100, 3))
    rows = per_class(outcomes("multilabel", logits, labels), ["a", "b", "c"])
    expected = precision_recall_fscore_support(labels, logits > 0, zero_division=0)
    assert [row["f1"] for row in rows] == pytest.approx(expected[2])
    assert [row["auroc"] for row in rows] == pytest.approx(roc_auc_score(labels, logits, average=None))


def test_empty_bins_have_no_mean():
    rows = reliability_rows(reliability(np.array([0.95, 0.99]), np.array([True, False])))
    assert rows["count"][-1] == 2
    assert rows["accuracy"][-1] == 0.5
    assert rows["accuracy"][0] is None
    assert len(rows["edges"]) == 16
