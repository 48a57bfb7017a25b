"""Predictions spread among neighbours, against loops and on clusters where the truth is known."""

import numpy as np
import pytest
import torch

from transfuse.fusion import spread as spreading
from transfuse.fusion.spread import agreement, neighbours_of, side_by_side, spread


def test_a_round_is_the_mean_of_the_neighbours_beside_what_was_said_first():
    generator = torch.Generator().manual_seed(0)
    said = torch.rand(7, 3, generator=generator, dtype=torch.float64)
    said /= said.sum(1, keepdim=True)
    features = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    neighbours = neighbours_of(features, 2)
    expected = said.numpy().copy()
    for _ in range(3):
        before = expected.copy()
        for i in range(7):
            distances = [float(np.sum((features[i] - features[j]).numpy() ** 2)) if j != i else np.inf for j in range(7)]
            nearest = np.argsort(distances)[:2]
            assert set(neighbours[i].tolist()) == set(nearest.tolist())
            expected[i] = 0.4 * said[i].numpy() + 0.6 * (before[nearest[0]] + before[nearest[1]]) / 2
    found = spread(said, neighbours, share=0.6, rounds=3)
    assert np.allclose(found.numpy(), expected, atol=1e-12)
    assert torch.allclose(found.sum(1), torch.ones(7, dtype=torch.float64))


def test_neighbours_outvote_mistakes_that_differ_between_them():
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(200) % 2
    features = 6.0 * truth[:, None] + torch.randn(200, 2, generator=generator)
    wrong = torch.rand(200, generator=generator) < 0.2
    said = torch.nn.functional.one_hot(torch.where(wrong, 1 - truth, truth), 2).double()
    neighbours = neighbours_of(features, 10)
    found = spread(said, neighbours)
    assert (said.argmax(1) == truth).double().mean() < 0.82
    assert (found.argmax(1) == truth).double().mean() > 0.9
    assert 0.6 < agreement(said, neighbours) < 0.8


def test_no_share_leaves_everything_as_it_was_said():
    said = torch.eye(3)
    assert torch.equal(spread(said, neighbours_of(torch.eye(3), 1), share=0.0), said)


def test_a_large_pool_looks_for_neighbours_among_some_of_its_samples(monkeypatch):
    monkeypatch.setattr(spreading, "MOST_ANCHORS", 10)
    features = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    neighbours = neighbours_of(features, 20, seed=3)
    assert neighbours.shape == (50, 9)
    assert len(neighbours.unique()) == 10
    assert not (neighbours == torch.arange(50)[:, None]).any()
    assert torch.equal(neighbours, neighbours_of(features, 20, seed=3))


def test_sources_weigh_alike_whatever_their_width_and_scale():
    generator = torch.Generator().manual_seed(0)
    both = side_by_side([100 * torch.randn(400, 32, generator=generator) + 7, torch.randn(400, 2, generator=generator)])
    halves = [part.square().sum(1).mean().item() for part in both.split([32, 2], 1)]
    assert halves[0] == pytest.approx(halves[1], rel=1e-2)
