"""Task arithmetic."""

import pytest
import torch

from transfuse.errors import ModelError
from transfuse.fusion.weights.mean import mean
from transfuse.fusion.weights.task_arithmetic import task_arithmetic


def family(count):
    base = {"w": torch.randn(5, dtype=torch.float64)}
    return base, [{"w": base["w"] + torch.randn(5, dtype=torch.float64)} for _ in range(count)]


def test_the_formula():
    base, states = family(3)
    made = task_arithmetic(states, base, 0.4)["w"]
    for place in range(5):
        start = float(base["w"][place])
        assert float(made[place]) == pytest.approx(start + 0.4 * sum(float(state["w"][place]) - start for state in states), rel=1e-12)


def test_with_one_over_n_it_is_the_mean():
    base, states = family(4)
    assert torch.allclose(task_arithmetic(states, base, 0.25)["w"], mean(states)["w"])


def test_a_negative_factor_forgets():
    base, states = family(1)
    assert torch.allclose(task_arithmetic(states, base, -1.0)["w"], 2 * base["w"] - states[0]["w"])


def test_variances_are_averaged_and_never_negative():
    base = {"n.running_var": torch.tensor([1.0])}
    made = task_arithmetic([{"n.running_var": torch.tensor([0.1])}, {"n.running_var": torch.tensor([0.2])}], base, 1.0)
    assert float(made["n.running_var"]) == pytest.approx(0.15)


def test_no_base_is_refused():
    with pytest.raises(ModelError, match="what training changed"):
        task_arithmetic(family(2)[1])
