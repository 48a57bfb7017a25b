"""Optimal transport between units."""

import itertools

import pytest
import torch

from tests.fusion.networks import mlp, pictures
from transfuse.fusion.alignment.permuting import permuted, shuffled
from transfuse.fusion.alignment.tracing import Group, Part, Specification, trace
from transfuse.fusion.alignment.transport import Bridge, axis_matrix, carried, transport_plan


@pytest.mark.parametrize("shape", [(2, 2), (3, 2), (2, 3), (3, 5)])
def test_a_plan_has_the_right_masses_and_no_plan_between_permutations_of_copies_is_cheaper(shape):
    here, there = shape
    cost = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plan = transport_plan(cost)
    assert float(plan.min()) >= -1e-12
    assert torch.allclose(plan.sum(1), torch.full((here,), 1 / here, dtype=torch.float64))
    assert torch.allclose(plan.sum(0), torch.full((there,), 1 / there, dtype=torch.float64))
    # with every unit in as many copies as the other side has units, the exact plan is the best permutation of those copies
    if here * there <= 6:
        rows = [row for row in range(here) for _ in range(there)]
        columns = [column for column in range(there) for _ in range(here)]
        best = min(
            sum(float(cost[rows[i], columns[j]]) for i, j in enumerate(order)) for order in itertools.permutations(range(here * there))
        )
        assert float((plan * cost).sum()) == pytest.approx(best / (here * there), abs=1e-9)


def test_a_permutation_s_bridges_do_what_permuting_does():
    network = mlp(batchnorm=True)
    specification = trace(network, pictures())
    order = shuffled(specification)
    bridges = {name: Bridge(*[torch.eye(len(one), dtype=torch.float64)[one]] * 2) for name, one in order.items()}
    wanted = permuted(network.state_dict(), specification, order)
    made = carried(network.state_dict(), specification, bridges)
    assert all(torch.allclose(made[name].double(), tensor.double()) for name, tensor in wanted.items())


def test_stretches_between_fixed_entries_are_led_over_alone():
    group = Group("g", 2, (Part("w", 0, 1, 1, 2, False, True),), ())
    specification = Specification({"g": group}, {"w": (6,)})
    bridge = Bridge(make=torch.tensor([[1.0, 10.0]]), use=torch.zeros(1, 2))
    matrix = axis_matrix(specification, "w", 0, {"g": bridge})
    assert matrix is not None
    assert (matrix @ torch.tensor([1.0, 2, 3, 4, 5, 6], dtype=torch.float64)).tolist() == [1, 42, 53, 6]
