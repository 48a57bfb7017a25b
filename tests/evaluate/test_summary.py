"""The blocks of summary.json."""

import json

import numpy as np
import pytest
from scipy import special, stats

from transfuse.evaluate import metrics
from transfuse.evaluate.summary import model_summary, transfer_summary

COST = {
    "parameters": 10,
    "macs": 20,
    "bytes": 40,
    "latency_ms": {"runtime": "torch", "threads": 1, "dtype": "float32", "batch_1": {"p50": 1.0, "p95": 2.0}},
}


def three_models(n=300, classes=4):
    random = np.random.default_rng(0)
    labels = random.integers(classes, size=n)
    own = np.eye(classes)[labels]
    noise = random.normal(size=(n, classes))
    return labels, own * 2 + noise, own * 1.2 + noise * 0.7 + random.normal(size=(n, classes)) * 0.7, own * 3 + noise


def test_a_models_block_holds_metrics_intervals_and_cost():
    labels, student, *_ = three_models()
    block = model_summary("classification", student, labels, COST)
    assert block["metrics"] == metrics.compute("classification", student, labels)
    assert {key: block[key] for key in COST} == COST
    hits = int((student.argmax(1) == labels).sum())
    wilson = stats.binomtest(hits, 300).proportion_ci(method="wilson")
    assert block["intervals"]["accuracy"] == pytest.approx([wilson.low, wilson.high])
    for name, (low, high) in block["intervals"].items():
        assert low <= block["metrics"][name] <= high, name
    assert set(block["metrics"]) - set(block["intervals"]) == {"ece"}
    assert "biased" in block["reasons"]["intervals.ece"]
    assert json.loads(json.dumps(block, allow_nan=False)) == block


def test_a_table_of_predictions_has_no_cost_and_says_why():
    labels, student, *_ = three_models()
    block = model_summary("classification", student, labels, None)
    assert block["parameters"] is None
    assert "table of predictions" in block["reasons"]["latency_ms"]


def test_every_none_in_a_block_has_a_reason():
    labels = np.zeros(20, int)
    block = model_summary("classification", np.random.default_rng(0).normal(size=(20, 7)), labels, None)
    empty = [name for name, value in block["metrics"].items() if value is None]
    assert empty == ["auroc"]
    assert set(empty) <= set(block["reasons"])


def test_gain_is_the_difference_of_the_primary_metric_with_a_paired_interval():
    labels, student, control, teacher = three_models()
    found = transfer_summary("classification", labels, student, control, teacher)
    gain = np.mean(student.argmax(1) == labels) - np.mean(control.argmax(1) == labels)
    assert found["gain"] == pytest.approx(gain)
    assert found["gain_interval"][0] < gain < found["gain_interval"][1]
    assert found["agreement"] == np.mean(student.argmax(1) == teacher.argmax(1))
    assert found["control_agreement"] == np.mean(control.argmax(1) == teacher.argmax(1))
    assert "reasons" not in found
    swapped = transfer_summary("classification", labels, control, student, teacher)
    assert swapped["gain"] == pytest.approx(-gain)
    assert swapped["gain_interval"] == pytest.approx([-found["gain_interval"][1], -found["gain_interval"][0]])
    assert swapped["mcnemar"] == pytest.approx(found["mcnemar"])


def test_gain_is_positive_when_the_error_falls():
    random = np.random.default_rng(0)
    labels = random.normal(size=100)
    better, worse = labels + random.normal(size=100), labels + 2 * random.normal(size=100)
    found = transfer_summary("regression", labels, better, worse, labels)
    assert found["gain"] > 0
    assert found["gain_interval"][0] > 0
    assert found["agreement"] is None
    assert found["reasons"]["agreement"] == "not defined for regression"
    assert found["rmse_to_teacher"] == pytest.approx(np.sqrt(np.mean((better - labels) ** 2)))


def test_without_control_and_teacher_the_reasons_are_given():
    labels, student, *_ = three_models()
    found = transfer_summary("classification", labels, student, None, None)
    assert found["gain"] is None
    assert found["reasons"] == {
        "gain": "there is no control",
        "gain_interval": "there is no control",
        "agreement": "there is no teacher",
        "kl": "there is no teacher",
    }


def test_several_teachers_speak_with_the_mean_of_their_probabilities():
    labels, student, first, second = three_models()
    found = transfer_summary("classification", labels, student, None, {"a": first, "b": second})
    mean = (special.softmax(first, 1) + special.softmax(second, 1)) / 2
    own = special.softmax(student, 1)
    assert found["agreement"] == np.mean(mean.argmax(1) == student.argmax(1))
    assert found["kl"] == pytest.approx(np.mean([stats.entropy(p, q) for p, q in zip(mean, own, strict=True)]))
    assert set(found["teachers"]) == {"a", "b"}
    hot = (first > 0).astype(float)
    both = transfer_summary("multilabel", hot, student, None, {"a": first, "b": second})
    mean = (special.expit(first) + special.expit(second)) / 2
    q = special.expit(student)
    assert both["kl"] == pytest.approx(np.mean(special.rel_entr(mean, q) + special.rel_entr(1 - mean, 1 - q)))


def test_a_teacher_with_gaps_is_compared_where_it_answers():
    labels, student, _, teacher = three_models()
    teacher[:100] = np.nan
    found = transfer_summary("classification", labels, student, None, teacher)
    assert found["agreement"] == np.mean(student[100:].argmax(1) == teacher[100:].argmax(1))
    assert found["reasons"]["teacher"].startswith("answers for 200 of 300")
