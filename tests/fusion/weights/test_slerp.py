"""Spherical interpolation."""

import math

import pytest
import torch

from transfuse.fusion.weights.slerp import slerp


def by_mergekit(one, other, t):
    """mergekit's documented formula, with lists."""
    length = [math.sqrt(sum(value * value for value in values)) for values in (one, other)]
    dot = sum(a * b for a, b in zip(one, other, strict=True)) / (length[0] * length[1])
    if abs(dot) > 0.9995:
        return [(1 - t) * a + t * b for a, b in zip(one, other, strict=True)]
    angle = math.acos(dot)
    return [(math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle) for a, b in zip(one, other, strict=True)]


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_the_formula(t):
    one, other = torch.randn(2, 6, dtype=torch.float64)
    made = slerp([{"w": one.view(2, 3)}, {"w": other.view(2, 3)}], t)["w"]
    assert made.flatten().tolist() == pytest.approx(by_mergekit(one.tolist(), other.tolist(), t), rel=1e-12)


def test_equal_lengths_are_kept_where_the_mean_would_shrink():
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    made = slerp([{"w": one}, {"w": other}])["w"]
    assert float(made.norm()) == pytest.approx(1.0)
    assert float(((one + other) / 2).norm()) < 0.8


@pytest.mark.parametrize("other", [[2.0, 4.0], [-1.0, -2.0], [0.0, 0.0]])
def test_parallel_opposite_and_empty_tensors_are_interpolated_in_a_straight_line(other):
    made = slerp([{"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor(other)}], 0.25)["w"]
    assert made.tolist() == pytest.approx([0.75 + 0.25 * other[0], 1.5 + 0.25 * other[1]])


def test_three_networks_have_no_arc():
    with pytest.raises(ValueError, match="from one network to another"):
        slerp([{"w": torch.ones(2)}] * 3)
