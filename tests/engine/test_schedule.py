"""Schedules against their definitions."""

import math

import pytest

from transfuse.engine import schedule


def test_cosine_follows_its_formula_after_a_linear_warm_up():
    assert schedule.cosine(0.025, warmup=0.05) == pytest.approx(0.5)
    for progress in (0.05, 0.2, 0.5, 0.9, 1.0):
        fallen = (progress - 0.05) / 0.95
        assert schedule.cosine(progress, warmup=0.05, final=0.1) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * fallen)) / 2)


def test_one_cycle_peaks_where_it_says_and_ends_where_it_says():
    assert schedule.one_cycle(0.0, start=0.04) == pytest.approx(0.04)
    assert schedule.one_cycle(0.3) == pytest.approx(1.0)
    assert schedule.one_cycle(1.0, final=0.001) == pytest.approx(0.001)


def test_step_multiplies_at_each_milestone():
    assert [schedule.step(progress) for progress in (0.6, 0.7, 0.8, 0.9)] == pytest.approx([1, 0.1, 0.01, 0.001])
    assert schedule.step(0.5, at=[0.5], factor=0.5) == 0.5


def test_constant_is_constant_after_warm_up():
    assert schedule.constant(0.05, warmup=0.1) == pytest.approx(0.5)
    assert {schedule.constant(progress) for progress in (0, 0.3, 1)} == {1.0}


@pytest.mark.parametrize("name", sorted(schedule.SCHEDULES))
def test_no_schedule_leaves_zero_to_one(name):
    values = [schedule.SCHEDULES[name](number / 100) for number in range(101)]
    assert all(0 <= value <= 1 for value in values)
    assert max(values) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("name", sorted(schedule.WEIGHT_SCHEDULES))
def test_a_weight_schedule_moves_from_start_to_end(name):
    weight = schedule.weight_function({name: {"start": 0.2, "end": 2.0, "begin": 0.1, "until": 0.6}})
    assert weight(0.0) == weight(0.1) == pytest.approx(0.2)
    assert weight(0.35) == pytest.approx(1.1)
    assert weight(0.6) == weight(1.0) == pytest.approx(2.0)
    assert schedule.weight_function(3.0)(0.5) == 3.0
