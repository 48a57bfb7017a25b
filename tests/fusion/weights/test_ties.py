"""TIES-merging."""

import numpy as np
import pytest
import torch

from transfuse.fusion.weights.ties import ties


def by_the_paper(changes, keep):
    """Trim, elect sign, disjoint mean; loops over one flat vector per source."""
    trimmed = []
    for change in changes:
        count = max(1, round(keep * len(change)))
        limit = sorted((abs(value) for value in change), reverse=True)[count - 1]
        trimmed.append([value if abs(value) >= limit else 0.0 for value in change])
    signs = [np.sign(sum(values)) for values in zip(*trimmed, strict=True)]
    majority = np.sign(sum(signs))
    merged = []
    for sign, values in zip(signs, zip(*trimmed, strict=True), strict=True):
        sign = majority if sign == 0 else sign
        agreed = [value for value in values if value != 0 and np.sign(value) == sign]
        merged.append(sum(agreed) / len(agreed) if agreed else 0.0)
    return merged


def family(count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    base = {"a": torch.randn(3, 4, dtype=torch.float64, generator=generator), "b": torch.randn(5, dtype=torch.float64, generator=generator)}
    scale = {"a": 1.0, "b": 0.1}
    states = [
        {name: value + scale[name] * torch.randn(value.shape, dtype=torch.float64, generator=generator) for name, value in base.items()}
        for _ in range(count)
    ]
    return base, states


def flat(state, base, names=("a", "b")):
    return torch.cat([(state[name] - base[name]).flatten() for name in names]).tolist()


@pytest.mark.parametrize("keep", [0.2, 0.5, 1.0])
def test_the_formula_over_the_whole_network(keep):
    base, states = family()
    made = flat(ties(states, base, keep), base)
    assert made == pytest.approx(by_the_paper([flat(state, base) for state in states], keep), abs=1e-12)


@pytest.mark.parametrize("name", ["a", "b"])
def test_the_formula_tensor_by_tensor(name):
    base, states = family()
    made = flat(ties(states, base, 0.4, scope="tensor"), base, (name,))
    assert made == pytest.approx(by_the_paper([flat(state, base, (name,)) for state in states], 0.4), abs=1e-12)
    assert flat(ties(states, base, 0.4), base, ("b",)) != pytest.approx(flat(ties(states, base, 0.4, scope="tensor"), base, ("b",)))


def test_a_change_that_only_one_source_made_stays_whole():
    base = {"w": torch.zeros(4)}
    states = [{"w": torch.tensor([4.0, 0, 0, 0])}, {"w": torch.tensor([0, 0, 0, 2.0])}]
    assert ties(states, base, keep=0.25)["w"].tolist() == [4.0, 0, 0, 2.0]


def test_opposite_changes_are_not_averaged_away():
    base = {"w": torch.zeros(2)}
    states = [{"w": torch.tensor([3.0, 1.0])}, {"w": torch.tensor([-1.0, 1.0])}]
    assert ties(states, base, keep=1.0, scaling=0.5)["w"].tolist() == [1.5, 0.5]


def test_where_the_sum_is_zero_the_majority_decides():
    base = {"w": torch.zeros(3)}
    states = [{"w": torch.tensor([2.0, -1.0, -1.0])}, {"w": torch.tensor([-2.0, -1.0, -1.0])}]
    assert ties(states, base, keep=1.0)["w"].tolist() == [-2.0, -1.0, -1.0]
