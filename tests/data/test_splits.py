"""Held-out parts are stratified, disjoint, of the asked-for size and a function of the seed."""

import numpy as np
import pytest
import torch

from transfuse.data.splits import held_out, label_budget, some, strata
from transfuse.errors import DataError


def test_every_class_gives_its_share():
    groups = np.repeat([0, 1, 2], [1000, 500, 50])
    chosen = held_out(groups, 0.2, 0, "test")
    assert [int(chosen[groups == group].sum()) for group in range(3)] == [200, 100, 10]


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.33, 0.5])
def test_the_size_is_the_asked_for_one_and_shares_differ_by_less_than_one(fraction):
    groups = np.random.default_rng(1).integers(0, 7, 613)
    chosen = held_out(groups, fraction, 0, "test")
    assert chosen.sum() == round(613 * fraction)
    shares = np.bincount(groups) * fraction
    assert (np.abs(np.bincount(groups[chosen], minlength=7) - shares) < 1).all()


def test_the_seed_and_the_purpose_decide():
    groups = np.repeat([0, 1], 50)
    assert np.array_equal(held_out(groups, 0.2, 3, "test"), held_out(groups, 0.2, 3, "test"))
    assert not np.array_equal(held_out(groups, 0.2, 3, "test"), held_out(groups, 0.2, 4, "test"))
    assert not np.array_equal(held_out(groups, 0.2, 3, "test"), held_out(groups, 0.2, 3, "val"))


def test_a_class_keeps_at_least_one_sample():
    groups = np.array([0] * 20 + [1] + [2, 2])
    for seed in range(20):
        chosen = held_out(groups, 0.5, seed, "test")
        assert not chosen[groups == 1].any()
        assert (~chosen)[groups == 2].any()


def test_something_is_held_out_even_of_very_little():
    assert held_out(np.array([0, 0, 1]), 0.05, 0, "val").sum() == 1
    with pytest.raises(DataError, match="no class has two"):
        held_out(np.array([0, 1, 2]), 0.5, 0, "val")


def test_regression_is_stratified_by_quantiles():
    values = torch.from_numpy(np.random.default_rng(0).lognormal(size=(1000, 1)))
    groups = strata(values, "regression", 0.1)
    assert np.bincount(groups).tolist() == [100] * 10
    edges = np.quantile(values.numpy(), np.linspace(0, 1, 11))
    for group in range(10):
        inside = values.numpy()[groups == group]
        assert inside.min() >= edges[group] - 1e-9
        assert inside.max() <= edges[group + 1] + 1e-9
    assert len(np.unique(strata(values[:30], "regression", 0.1))) == 3
    assert len(np.unique(strata(values[:5], "regression", 0.1))) == 1


def test_multilabel_is_stratified_by_the_rarest_label():
    labels = torch.tensor([[1.0, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 0], [1, 0, 0]])
    assert strata(labels, "multilabel", 0.2).tolist() == [1, 0, 2, 3, 0]


def test_a_label_budget_keeps_so_many_per_class():
    labels = torch.tensor([0] * 30 + [1] * 20 + [2] * 3)
    kept, short = label_budget(labels, 5, 0)
    assert [int(kept[labels.numpy() == number].sum()) for number in range(3)] == [5, 5, 3]
    assert short == [2]
    assert np.array_equal(kept, label_budget(labels, 5, 0)[0])
    assert not np.array_equal(kept, label_budget(labels, 5, 1)[0])


def test_some_positions_are_distinct_and_sorted():
    rows = some(100, 30, 0, "statistics")
    assert len(np.unique(rows)) == 30
    assert (np.diff(rows) > 0).all()
    assert some(10, 30, 0, "statistics").tolist() == list(range(10))
