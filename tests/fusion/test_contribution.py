"""Shapley values and leave-one-out against their definitions."""

from itertools import permutations

import numpy as np
import pytest

from transfuse.fusion.contribution import coalitions, leave_one_out, shapley, without_each

NAMES = ("a", "b", "c", "d")


def scores(seed=0):
    random = np.random.default_rng(seed)
    return {frozenset(chosen): float(random.random()) for chosen in [(), *coalitions(NAMES)]}


def over_orders(values):
    """Mean over all orders of what a source adds to those before it: the other definition."""
    found = dict.fromkeys(NAMES, 0.0)
    orders = list(permutations(NAMES))
    for order in orders:
        for place, name in enumerate(order):
            found[name] += (values[frozenset(order[: place + 1])] - values[frozenset(order[:place])]) / len(orders)
    return found


def test_shapley_is_the_mean_over_all_orders_and_adds_up():
    values = scores()
    found = shapley(values, NAMES)
    assert found == pytest.approx(over_orders(values))
    assert sum(found.values()) == pytest.approx(values[frozenset(NAMES)] - values[frozenset()])


def test_two_copies_share_what_leave_one_out_gives_neither():
    values = {frozenset(): 0.1, frozenset("a"): 0.9, frozenset("b"): 0.9, frozenset("ab"): 0.9}
    assert leave_one_out(values, ("a", "b")) == {"a": 0.0, "b": 0.0}
    assert shapley(values, ("a", "b")) == pytest.approx({"a": 0.4, "b": 0.4})


def test_all_sets_are_tried_once_and_leave_one_out_needs_one_more_than_there_are_sources():
    assert len(coalitions(NAMES)) == 15
    assert len(set(coalitions(NAMES))) == 15
    assert without_each(("a", "b", "c")) == [("a", "b", "c"), ("b", "c"), ("a", "c"), ("a", "b")]
    assert without_each(("a",)) == [("a",)]
