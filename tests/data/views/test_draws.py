"""Draws are pure functions of (seed, sample, view, name): the published hash, uniform, and independent of each other."""

import numpy as np
import pytest
import torch
from scipy import stats

from transfuse.data.views.draws import Draws, _mix


def test_the_hash_is_splitmix64():
    def reference(value):  # in Python's unbounded integers
        value = (value + 0x9E3779B97F4A7C15) % 2**64
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) % 2**64
        return value ^ (value >> 31)

    states = [0, 1, 2**62, 2**63 - 1, 123456789012345]
    signed = [(state + 0x9E3779B97F4A7C15) % 2**64 for state in states]
    ours = _mix(torch.tensor([value - 2**64 if value >= 2**63 else value for value in signed]))
    assert [value % 2**64 for value in ours.tolist()] == [reference(state) for state in states]
    assert reference(1234567) == 6457827717110365317  # first output of the published generator for this seed


@pytest.mark.parametrize("vary", ["ids", "views", "both"])
def test_draws_are_uniform(vary):
    count = 20000
    varying, fixed = torch.arange(count), torch.full((count,), 7)
    ids = fixed if vary == "views" else varying // (100 if vary == "both" else 1)
    views = fixed if vary == "ids" else varying % (100 if vary == "both" else count)
    draws = Draws(5, ids, views)
    for name, cells in (("crop.row", 9), ("flip", 2), ("other", 97)):
        observed = torch.bincount(draws.integers(name, cells), minlength=cells)
        assert len(observed) == cells
        assert stats.chisquare(observed.numpy()).pvalue > 1e-4
    uniform = draws.uniform("level").numpy()
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert stats.kstest(uniform, "uniform").pvalue > 1e-4
    assert stats.kstest(draws.between("level", -3.0, 2.0).numpy(), "uniform", args=(-3, 5)).pvalue > 1e-4


def test_draws_of_different_names_are_independent():
    draws = Draws(0, torch.arange(20000), torch.zeros(20000, dtype=torch.int64))
    table = torch.zeros(5, 5)
    table.index_put_((draws.integers("crop.row", 5), draws.integers("crop.column", 5)), torch.ones(20000), accumulate=True)
    assert stats.chi2_contingency(table.numpy()).pvalue > 1e-4


def test_integers_below_a_count_per_sample_stay_below_it_and_reach_it():
    counts = torch.arange(20000) % 7 + 1
    drawn = Draws(0, torch.arange(20000), torch.zeros(20000, dtype=torch.int64)).integers("place", counts)
    for count in range(1, 8):
        assert set(drawn[counts == count].tolist()) == set(range(count))


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_what_happens_with_a_probability_happens_that_often(probability):
    happened = int(Draws(2, torch.arange(20000), torch.ones(20000, dtype=torch.int64)).happens("it", probability).sum())
    assert stats.binomtest(happened, 20000, probability).pvalue > 1e-4
    assert probability == 0.25 or happened == 20000 * probability


def test_noise_is_uniform_without_correlation_between_neighbours_samples_and_views():
    def noise(seed=0, ids=range(300), view=0, count=1001):
        ids = torch.tensor(ids)
        return Draws(seed, ids, torch.full_like(ids, view)).bytes("noise", count).numpy()

    values = noise()
    assert values.shape == (300, 1001)
    assert stats.chisquare(np.bincount(values.ravel(), minlength=256)).pvalue > 1e-4
    pairs = {"pixels": (values[:, :-1], values[:, 1:]), "samples": (values[:-1], values[1:]), "views": (values, noise(view=1))}
    for name, (first, second) in pairs.items():
        assert stats.pearsonr(first.ravel(), second.ravel()).pvalue > 1e-4, name
    assert np.array_equal(noise(ids=[299, 4]), values[[299, 4]])
    assert np.array_equal(noise(count=77), values[:, :77])


def test_several_tries_are_the_draws_of_numbered_names():
    draws = Draws(4, torch.arange(50), torch.full((50,), 2))
    alone = torch.stack([draws.between(f"box.{number}", -1.0, 3.0) for number in range(10)])
    assert torch.equal(draws.tries("box", 10, -1.0, 3.0), alone)
