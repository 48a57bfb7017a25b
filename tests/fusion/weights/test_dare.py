"""DARE."""

import pytest
import torch

from transfuse.fusion.weights.dare import dare
from transfuse.fusion.weights.task_arithmetic import task_arithmetic
from transfuse.fusion.weights.ties import ties


def family(size=20000):
    base = {"w": torch.zeros(size, dtype=torch.float64)}
    return base, [{"w": torch.full((size,), 2.0, dtype=torch.float64)}]


@pytest.mark.parametrize("drop", [0.0, 0.5, 0.9])
def test_what_stays_is_scaled_up_so_that_the_mean_stays(drop):
    base, states = family()
    made = dare(states, base, drop, scaling=1.0)["w"]
    values, counts = made.unique(return_counts=True)
    assert values.tolist() == pytest.approx([2.0] if drop == 0 else [0.0, 2.0 / (1 - drop)])
    assert float(made.mean()) == pytest.approx(2.0, abs=5 * 2 * (drop / (1 - drop) / 20000) ** 0.5 + 1e-12)
    assert int(counts[-1]) / 20000 == pytest.approx(1 - drop, abs=0.02)


def test_sources_drop_different_changes_and_a_seed_repeats_them():
    base, states = family(100)
    both = dare([states[0], states[0]], base, 0.5, 1.0)["w"]
    assert set(both.tolist()) == {0.0, 4.0, 8.0}
    assert torch.equal(both, dare([states[0], states[0]], base, 0.5, 1.0)["w"])
    assert not torch.equal(both, dare([states[0], states[0]], base, 0.5, 1.0, seed=1)["w"])


def test_without_dropping_it_is_what_comes_then():
    base = {"w": torch.randn(30, dtype=torch.float64)}
    states = [{"w": base["w"] + torch.randn(30, dtype=torch.float64)} for _ in range(3)]
    assert torch.allclose(dare(states, base, 0.0, 0.3)["w"], task_arithmetic(states, base, 0.3)["w"])
    assert torch.allclose(dare(states, base, 0.0, 0.7, then="ties")["w"], ties(states, base, 1.0, 0.7)["w"])
