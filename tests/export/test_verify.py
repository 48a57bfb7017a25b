import json

import numpy as np
import pytest
import torch
from torch import nn

from transfuse.core.preprocess import Preprocess
from transfuse.core.types import Model, Target
from transfuse.data.samples import ArraySamples
from transfuse.export import verify
from transfuse.export.verify import Judge


def judge(labels, task="classification", marks=(0.9, 0.02)):
    samples = ArraySamples(torch.zeros(len(labels), 2), torch.as_tensor(labels), np.arange(len(labels)))
    return Judge(samples, "test", task, marks)


def model(target=None):
    return Model(nn.Identity(), "live:Identity", preprocess=Preprocess(), target=target)


def test_agreement_and_loss_are_counted_by_hand():
    ours = torch.tensor([[2.0, 1], [2, 1], [1, 2], [1, 2]])
    theirs = torch.tensor([[2.0, 1], [1, 2], [1, 2], [1, 2]])
    found = verify.compared(ours, theirs, judge([0, 0, 1, 0]), model())
    assert found["largest_difference"] == {"absolute": 1.0, "relative": 0.5}
    assert (found["agreement"], found["different_decisions"]) == (0.75, 1)
    assert (found["metric"]["network"], found["metric"]["file"]) == (0.75, 0.5)
    assert found["metric"]["loss"] == 0.25
    low, high = found["metric"]["interval"]
    assert low <= 0.25 <= high


def test_a_regression_agrees_by_explained_variance_and_loses_a_share_of_its_error():
    generator = torch.Generator().manual_seed(0)
    ours, noise = torch.randn(200, 1, generator=generator), torch.randn(200, 1, generator=generator)
    theirs = ours + 0.1 * noise
    labels = ours * 3 + 5 + noise
    found = verify.compared(ours, theirs, judge(labels, "regression"), model(Target(["y"], [5.0], [3.0])))
    explained = 1 - ((theirs - ours).double() ** 2).mean() / ours.double().var(0, correction=0)
    assert found["agreement"] == pytest.approx(explained.item())
    before, after = (((outputs * 3 + 5 - labels).double() ** 2).mean().sqrt().item() for outputs in (ours, theirs))
    assert found["metric"]["loss"] == pytest.approx((after - before) / before, rel=1e-5)


@pytest.mark.parametrize("target", [None, Target(["y"], [5.0], [3.0])])
@pytest.mark.parametrize("ours", [torch.full((20, 1), 0.5), torch.zeros(20, 1), torch.tensor([[0.5]]), torch.tensor([[0.0]])])
def test_predictions_without_variance_are_held_against_a_scale_that_they_have(ours, target):
    labels = ours + torch.linspace(-1, 1, len(ours))[:, None]
    asked = judge(labels, "regression", marks=(0.95, 0.5))
    near, far = ours + 0.001, ours + 4
    found = verify.compared(ours, near, asked, model(target))
    assert 0.999 < found["agreement"] < 1
    assert verify.failures(found, asked) == []
    worse = verify.compared(ours, far, asked, model(target))
    assert -70 < worse["agreement"] < 0
    assert "of the variance" in verify.failures(worse, asked)[0]
    json.dumps([found, worse], allow_nan=False)


def test_a_network_without_finite_answers_is_named_and_leaves_no_nan():
    asked = judge([0, 1])
    found = verify.compared(torch.tensor([[0.0, float("inf")], [1, 0]]), torch.eye(2), asked, model())
    assert verify.failures(found, asked) == ["the network gives NaN or infinity"]


@pytest.mark.parametrize("broken", [torch.full((4, 2), float("nan")), torch.zeros(4, 3)])
def test_outputs_of_another_form_or_without_numbers_do_not_pass(broken):
    found = verify.compared(torch.ones(4, 2), broken, judge([0, 0, 1, 1]), model())
    assert verify.failures(found, judge([0, 0, 1, 1]))


def test_a_float_file_fails_on_one_decision_or_a_difference_above_the_tolerance():
    exact = judge([0, 1, 1], marks=None)
    ours = torch.tensor([[1.0, 1 + 1e-6], [0, 9], [0, 9]])
    flipped, apart = ours.clone(), ours.clone()
    flipped[0, 0] += 2e-6
    apart[1, 1] += 9 * 2e-4
    assert verify.failures(verify.compared(ours, ours.clone(), exact, model()), exact) == []
    said = verify.failures({**verify.compared(ours, flipped, exact, model()), "samples": 3}, exact)
    assert "decides differently on 1 of 3" in " ".join(said)
    assert "largest difference" in verify.failures(verify.compared(ours, apart, exact, model()), exact)[0]


def test_marks_decide_over_a_file_in_8_bits():
    ours = torch.eye(10)
    theirs = ours.clone()
    theirs[0] = theirs[1]
    found = verify.compared(ours, theirs, judge(list(range(10))), model())
    assert verify.failures(found, judge(list(range(10)), marks=(0.9, 0.1))) == []
    assert "decides as the network" in verify.failures(found, judge(list(range(10)), marks=(0.95, 0.1)))[0]
    assert "loses 10.00 points of accuracy" in verify.failures(found, judge(list(range(10)), marks=(0.9, 0.05)))[0]


def test_a_slower_and_a_worse_file_is_called_that():
    entry = {"ratio": 1.5, "quartiles": [1.4, 1.6], "blocks": 9, "other_p50": 1.0}
    metric = {"name": "accuracy", "network": 0.9, "file": 0.88, "loss": 0.02, "interval": [0.01, 0.03]}
    said = verify.remarks({"latency_ms": {"against": {"the network in torch": entry}}, "metric": metric}, "classification")
    assert "slower than the network in torch: 1.50 times" in said[0]
    assert "loses 2.00 points of accuracy (95% interval 1.00 to 3.00 points)" in said[1]
    unsure = verify.remarks({"latency_ms": {"against": {}}, "metric": {**metric, "interval": None}}, "classification")
    assert unsure == ["it loses 2.00 points of accuracy"]


def test_a_function_takes_as_long_as_itself():
    work = torch.randn(60, 60)
    found = verify.alternating(lambda: work @ work, lambda: work @ work, blocks=5)
    assert 0.3 < found["ratio"] < 3
    assert found["quartiles"][0] <= found["ratio"] <= found["quartiles"][1]
