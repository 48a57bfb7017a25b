"""Model stock."""

import math

import pytest
import torch

from transfuse.fusion.weights.model_stock import model_stock


def share(changes):
    """The paper's t with the mean cosine over pairs."""
    cosines = []
    for one in range(len(changes)):
        for other in range(one + 1, len(changes)):
            product = sum(a * b for a, b in zip(changes[one], changes[other], strict=True))
            cosines.append(product / (math.hypot(*changes[one]) * math.hypot(*changes[other])))
    cosine, n = sum(cosines) / len(cosines), len(changes)
    return n * cosine / (1 + (n - 1) * cosine)


@pytest.mark.parametrize("count", [2, 4])
def test_the_formula_tensor_by_tensor(count):
    generator = torch.Generator().manual_seed(0)
    base = {name: torch.randn(6, dtype=torch.float64, generator=generator) for name in "ab"}
    common = {name: torch.randn(6, dtype=torch.float64, generator=generator) for name in "ab"}
    states = [
        {name: base[name] + common[name] + 0.5 * torch.randn(6, dtype=torch.float64, generator=generator) for name in "ab"}
        for _ in range(count)
    ]
    made = model_stock(states, base)
    for name in "ab":
        t = share([(state[name] - base[name]).tolist() for state in states])
        for place in range(6):
            mean = sum(float(state[name][place]) for state in states) / count
            assert float(made[name][place]) == pytest.approx(t * mean + (1 - t) * float(base[name][place]), rel=1e-12)


def test_it_is_nearest_to_the_base_of_all_points_in_the_sources_plane():
    # with equal lengths and angles the formula is the foot of the perpendicular from the base
    base = {"w": torch.zeros(3, dtype=torch.float64)}
    rows = torch.tensor([[2.0, 1, 1], [1.0, 2, 1], [1.0, 1, 2]], dtype=torch.float64)
    made = model_stock([{"w": row} for row in rows], base)["w"]
    edges = rows[1:] - rows[0]
    # the paper's w: in expectation orthogonal to the plane; here the mean is the foot, pulled back by t
    assert torch.allclose(edges @ made, torch.zeros(2, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize(("other", "expected"), [([1.0, 0.0], [1.0, 0.0]), ([0.0, 1.0], [0.0, 0.0]), ([-1.0, 0.0], [0.0, 0.0])])
def test_same_orthogonal_and_opposite_changes(other, expected):
    base = {"w": torch.zeros(2)}
    made = model_stock([{"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor(other)}], base)["w"]
    assert made.tolist() == pytest.approx(expected)


def test_a_tensor_that_nobody_changed_stays():
    base = {"w": torch.tensor([1.0, 2.0])}
    assert torch.equal(model_stock([base, base], base)["w"], base["w"])


def test_one_network_has_no_angle():
    with pytest.raises(ValueError, match="two fine-tuned"):
        model_stock([{"w": torch.ones(2)}], {"w": torch.zeros(2)})
