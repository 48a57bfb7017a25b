"""Cost figures against counts by hand and against the file that safetensors writes."""

import json

import pytest
import torch
from safetensors.torch import save_model
from torch import nn

from transfuse.evaluate.cost import measure, tensor_bytes
from transfuse.evaluate.operations import count_macs


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, inputs):
        return self.head(self.norm(self.embedding(inputs).mean(1)))


@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        (nn.Linear(10, 7), (10,), 70),
        (nn.Conv2d(3, 8, 3, padding=1), (3, 12, 12), 8 * 12 * 12 * 3 * 9),
        (nn.Conv2d(8, 8, 3, stride=2, groups=4, bias=False), (8, 9, 9), 8 * 4 * 4 * 2 * 9),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5)), (1, 4, 4), 4 * 4 * 9 + 80),
    ],
)
def test_macs_are_those_counted_by_hand(module, shape, expected):
    assert count_macs(module.eval(), torch.zeros(1, *shape)) == expected


def test_the_transformers_fused_kernel_does_not_hide_its_work():
    layer = nn.TransformerEncoderLayer(16, 2, dim_feedforward=32, batch_first=True).eval()
    tokens, width = 5, 16
    projections = tokens * width * width * 4 + tokens * width * 32 * 2
    attention = 2 * tokens * tokens * width
    assert count_macs(layer, torch.zeros(1, tokens, width)) == projections + attention


@pytest.mark.parametrize("module", [Tied(), nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Linear(4, 2).bfloat16()])
def test_bytes_are_the_files_tensors(module, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_model(module, str(path))
    content = path.read_bytes()
    header = int.from_bytes(content[:8], "little")
    assert json.loads(content[8 : 8 + header])
    assert tensor_bytes(module) == len(content) - 8 - header


def test_shared_parameters_count_once():
    assert measure(Tied(), torch.zeros(2, 3, dtype=torch.long), runs=5)["parameters"] == 160 + 16


class Graph(nn.Module):
    """Answers as a graph in a file does, whose weights and operators aren't torch's."""

    stored_bytes = 1234

    def forward(self, inputs):
        return torch.from_numpy(inputs.numpy()[:, :2] * 3)


@pytest.mark.parametrize(
    ("module", "runtime"),
    [(Graph(), "onnxruntime"), (nn.Sequential(nn.Linear(4, 4).requires_grad_(False), Graph()), "torch and onnxruntime")],
)
def test_of_a_graph_that_torch_does_not_run_only_bytes_and_latency_are_known(module, runtime):
    cost = measure(module, torch.randn(3, 4), runs=5)
    unseen = ("parameters", "macs", "macs_leave_out", "memory")
    assert [cost[key] for key in unseen] == [None] * 4
    assert {cost["reasons"][key] for key in (*unseen, "latency_ms.dtype")} == {"a graph that onnxruntime runs"}
    assert cost["latency_ms"]["runtime"] == runtime
    assert cost["latency_ms"]["dtype"] is None
    assert cost["bytes"] == tensor_bytes(module) >= 1234
    assert cost["latency_ms"]["batch_8"]["p50"] > 0


def test_measuring_leaves_the_module_and_the_threads_as_they_were():
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.BatchNorm1d(4)).train()
    module[2].eval()
    before, statistics = torch.get_num_threads(), module[2].running_mean.clone()
    cost = measure(module, torch.randn(3, 4), threads=2, runs=5)
    assert torch.get_num_threads() == before
    assert [part.training for part in module] == [True, True, False]
    assert torch.equal(module[2].running_mean, statistics)
    assert cost["latency_ms"]["threads"] == 2
    assert cost["latency_ms"]["dtype"] == "float32"
    assert 0 < cost["latency_ms"]["batch_1"]["p50"] <= cost["latency_ms"]["batch_1"]["p95"]


def test_a_slower_model_has_a_larger_latency():
    small, large = nn.Linear(8, 8), nn.Sequential(*[nn.Linear(600, 600) for _ in range(6)])
    p50 = [measure(module, torch.zeros(1, size), runs=20)["latency_ms"]["batch_1"]["p50"] for module, size in ((small, 8), (large, 600))]
    assert p50[0] < p50[1]
