"""Projected neurons: exact where the units lie in fewer dimensions, orthonormal directions, the main ones where data say so."""

import numpy as np
import pytest
import torch
from torch import nn

from transfuse.policies.init.project import Project, main_directions, random_directions

from .scenes import inputs, network, scene


def test_a_linear_network_whose_units_lie_in_a_subspace_is_kept_exactly():
    torch.manual_seed(0)
    large = nn.Sequential(nn.Linear(4, 30, bias=False), nn.Linear(30, 20, bias=False), nn.Linear(20, 3))  # 4 inputs: rank 4
    small = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Linear(6, 5, bias=False), nn.Linear(5, 3))
    given = inputs((4,))
    moved = Project("svd", scale="none")(large, small, scene(given))
    assert moved.share == 1.0
    with torch.no_grad():
        torch.testing.assert_close(small(given), large(given), rtol=1e-4, atol=1e-5)


def test_main_directions_are_those_of_a_singular_value_decomposition():
    values = np.random.default_rng(0).normal(size=(200, 12)) @ np.diag(np.arange(1, 13))
    _, _, rows = np.linalg.svd(values, full_matrices=False)
    found = main_directions(torch.from_numpy(values.T @ values / 200), 4).numpy()
    np.testing.assert_allclose(found @ found.T, np.eye(4), atol=1e-10)
    np.testing.assert_allclose(np.abs(np.sum(found * rows[:4], axis=1)), 1.0, atol=1e-8)
    assert (found.sum(1) > 0).all()


def test_random_directions_are_orthonormal_and_a_function_of_the_seed():
    one, same, other = (random_directions(5, 9, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    torch.testing.assert_close(one @ one.T, torch.eye(5, dtype=torch.float64))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_each_unit_varies_as_its_direction_in_the_source_does():
    large, small, given = network("builtin:mlp", widths=[30]), network("builtin:mlp", seed=3, widths=[8]), inputs()
    Project("svd")(large, small, scene(given))
    with torch.no_grad():
        before, after = large.layers[0].linear(given.flatten(1)).double(), small.layers[0].linear(given.flatten(1)).double()
        said = large.layers[0](given.flatten(1)).double()
    directions = main_directions(said.T @ said / len(said), 8)
    torch.testing.assert_close(after.std(0), (before @ directions.T).std(0), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(after.mean(0), (before @ directions.T).mean(0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("by", ["svd", "random"])
@pytest.mark.parametrize("name", ["builtin:resnet8", "builtin:mobilenetv2"])
def test_norms_and_depthwise_layers_are_projected_too(name, by):
    options = {"shortcut": "B"} if "resnet" in name else {}
    large, small = network(name, width=0.5, **options), network(name, seed=3, width=0.25, **options)
    moved = Project(by)(large, small, scene(inputs()))
    assert moved.share == 1.0
    assert any("BatchNorm layers were estimated anew" in note for note in moved.notes)
    norm = next(module for module in small.modules() if isinstance(module, nn.BatchNorm2d))
    torch.testing.assert_close(norm.weight, torch.ones_like(norm.weight))  # (Q * Q) 1 = 1, as the rows of Q have norm 1
    with torch.no_grad():
        assert small(inputs()).isfinite().all()
