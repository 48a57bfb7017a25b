"""What a forward pass does: what the count of multiply-accumulates leaves out, and the most memory, against counts by hand."""

import torch
from torch import nn

from transfuse.evaluate.cost import BATCHES, latencies, measure, resident_bytes
from transfuse.evaluate.operations import count_operations, peak_bytes


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.LSTM(4, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, inputs):
        return self.head(self.inner(inputs)[0][:, -1])


def test_an_operator_that_is_not_counted_is_named_with_its_calls():
    macs, left_out = count_operations(Recurrent().eval(), torch.zeros(1, 5, 4))
    assert macs == 24  # the head alone
    assert left_out
    assert any("rnn" in name or "lstm" in name for name in left_out)


def test_normalisation_and_pooling_are_named_and_element_wise_work_is_not():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    macs, left_out = count_operations(module, torch.zeros(1, 3, 8, 8))
    assert macs == 4 * 6 * 6 * 27 + 8
    assert sum("batch_norm" in name for name in left_out) == 1
    assert not [name for name in left_out if "relu" in name or "view" in name or "convolution" in name]


def test_a_network_of_products_alone_leaves_nothing_out():
    assert count_operations(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)).eval(), torch.zeros(1, 4))[1] == {}


def test_the_peak_holds_weights_input_and_what_lives_at_one_time():
    module = nn.Sequential(nn.Linear(100, 200, bias=False), nn.ReLU(), nn.Linear(200, 10, bias=False)).eval()
    weights, given, hidden = 4 * (100 * 200 + 200 * 10), 4 * 100, 4 * 200
    assert peak_bytes(module, torch.zeros(1, 100)) == weights + given + 2 * hidden
    assert peak_bytes(nn.ReLU(), torch.zeros(1, 1000)) == 8000


def test_buffers_that_no_file_holds_are_memory_all_the_same():
    module = nn.Linear(4, 4, bias=False)
    module.register_buffer("table", torch.zeros(100), persistent=False)
    assert resident_bytes(module) == 4 * (16 + 100)


def test_larger_batches_are_timed_and_left_out_where_they_would_take_long(monkeypatch):
    found, reasons = latencies(nn.Linear(64, 64), torch.zeros(1, 64), runs=5)
    assert list(found) == [f"batch_{batch}" for batch in BATCHES]
    assert not reasons
    for batch in BATCHES:
        timed = found[f"batch_{batch}"]
        assert timed["p50"] <= timed["p95"]
        assert abs(timed["samples_per_second"] * timed["p50"] / 1e3 - batch) < 1e-6 * batch
    monkeypatch.setattr("transfuse.evaluate.cost._LONGEST_PASS", 0.0)
    found, reasons = latencies(nn.Linear(64, 64), torch.zeros(1, 64), runs=2)
    assert found["batch_8"] is None
    assert "left out" in reasons["latency_ms.batch_8"]


def test_a_module_that_takes_only_one_sample_keeps_its_other_figures():
    class Single(nn.Module):
        def forward(self, inputs):
            return inputs.reshape(1, 4)

    found = measure(Single(), torch.zeros(1, 4), runs=2)
    assert found["latency_ms"]["batch_1"]["p50"] > 0
    assert found["latency_ms"]["batch_64"] is None
    assert "batch of 64" in found["reasons"]["latency_ms.batch_64"]
