"""Likeness of layers: of a network with itself, and of networks that have little in common."""

import numpy as np
import pytest
import torch
from torch import nn

from transfuse.core.preprocess import Preprocess
from transfuse.data.samples import ArraySamples
from transfuse.evaluate.layers import likeness


def convolutional(seed):
    torch.manual_seed(seed)
    stem = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU())
    return nn.Sequential(stem, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()


def samples():
    inputs = torch.randn(90, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return ArraySamples(inputs, torch.zeros(90, dtype=torch.long), np.arange(90))


def test_a_network_is_like_itself_at_every_stage_and_before_its_head():
    rows, reason = likeness((convolutional(0), Preprocess()), (convolutional(0), Preprocess()), samples(), batch_size=40)
    assert reason is None
    assert len(rows) >= 3
    assert rows[-1]["student"] == "3@input"
    assert [row["cka"] for row in rows] == pytest.approx([1] * len(rows))


def test_other_weights_are_less_alike():
    rows, _ = likeness((convolutional(0), Preprocess()), (convolutional(1), Preprocess()), samples())
    assert all(0 <= row["cka"] < 0.999 for row in rows)


def test_networks_without_maps_are_compared_before_their_heads():
    torch.manual_seed(0)
    first, second = (nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 3)).eval() for width in (9, 17))
    rows, _ = likeness((first, Preprocess()), (second, Preprocess()), samples())
    assert [(row["student"], row["teacher"]) for row in rows] == [("3@input", "3@input")]
    with_head = torch.relu(first[1](samples().raw(range(90)).flatten(1))).detach().numpy()
    assert with_head.shape == (90, 9)


def test_nothing_in_common_is_said():
    class Sum(nn.Module):
        def forward(self, inputs):
            return inputs.sum((1, 2, 3))[:, None].expand(-1, 3)

    rows, reason = likeness((Sum(), Preprocess()), (convolutional(0), Preprocess()), samples())
    assert rows == []
    assert "no features" in reason
