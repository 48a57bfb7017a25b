"""Intervals and tests against scipy, closed forms and their own promise of coverage."""

import numpy as np
import pytest
from scipy import stats

from transfuse.evaluate import metrics, statistics
from transfuse.evaluate.outcomes import outcomes


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 10), (10, 10), (918, 1000), (1, 1)])
def test_wilson_agrees_with_scipy(successes, n):
    expected = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert statistics.wilson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_bounds_are_the_roots_of_the_score_test():
    for bound in statistics.wilson(37, 50, confidence=0.9):
        z = (37 / 50 - bound) / np.sqrt(bound * (1 - bound) / 50)
        assert abs(z) == pytest.approx(stats.norm.ppf(0.95), abs=1e-9)


def test_a_resample_has_as_many_samples_as_the_original():
    rows = np.concatenate(list(statistics.resampled_weights(37, 200, seed=1)))
    assert rows.shape == (200, 37)
    assert (rows.sum(1) == 37).all()
    assert rows.var(0).mean() == pytest.approx(1 - 1 / 37, rel=0.1)  # binomial(n, 1/n)


def test_bootstrap_repeats_with_its_seed_and_in_any_chunks(monkeypatch):
    values = np.random.default_rng(0).normal(size=100)
    statistic = {"mean": lambda weights: weights @ values / 100}
    first = statistics.bootstrap(100, statistic, seed=3)
    assert statistics.bootstrap(100, statistic, seed=3) == first
    assert statistics.bootstrap(100, statistic, seed=4) != first
    monkeypatch.setattr(statistics, "_CHUNK", 700)
    assert statistics.bootstrap(100, statistic, seed=3)["mean"] == pytest.approx(first["mean"], rel=0.15)


def test_bootstrap_of_a_mean_is_the_normal_interval():
    values = np.random.default_rng(0).normal(size=4000)
    low, high = statistics.bootstrap(4000, {"mean": lambda weights: weights @ values / 4000}, resamples=2000)["mean"]
    half = 1.96 * values.std() / np.sqrt(4000)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_bootstrap_of_a_metric_is_the_metric_of_resampled_samples():
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(60, 3)), random.integers(3, size=60)
    weights = next(iter(statistics.resampled_weights(60, 5)))
    for name, metric in metrics.table("classification", 3).items():
        for row, value in zip(weights, metric.values(outcomes("classification", logits, labels), weights), strict=True):
            again = np.repeat(np.arange(60), row.astype(int))
            assert value == pytest.approx(metrics.score("classification", name, logits[again], labels[again]), abs=1e-9), name


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    random = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        values = random.exponential(size=80)
        low, high = statistics.bootstrap(80, {"mean": lambda weights, values=values: weights @ values / 80}, 400, seed=trial)["mean"]
        hits += low <= 1 <= high
    assert 175 <= hits <= 199  # 95 % of 200 is 190; skewed data loses a little


def test_the_paired_interval_is_narrower_than_two_single_ones():
    random = np.random.default_rng(0)
    hard = random.normal(size=300)
    first, second = hard + random.normal(size=300) * 0.1, hard + 0.05 + random.normal(size=300) * 0.1
    low, high = statistics.paired_difference(300, lambda w: w @ first / 300, lambda w: w @ second / 300)
    assert low < (second - first).mean() < high
    alone = statistics.bootstrap(300, {"second": lambda w: w @ second / 300})["second"]
    assert high - low < 0.3 * (alone[1] - alone[0])


def test_a_statistic_that_is_mostly_undefined_has_no_interval():
    assert statistics.bootstrap(10, {"nothing": lambda weights: np.full(len(weights), np.nan)}) == {"nothing": None}


def test_mcnemar_agrees_with_the_binomial_sum():
    random = np.random.default_rng(0)
    first, second = random.random(200) < 0.7, random.random(200) < 0.8
    b, c = (first & ~second).sum(), (second & ~first).sum()
    expected = min(1.0, 2 * sum(stats.binom.pmf(i, b + c, 0.5) for i in range(min(b, c) + 1)))
    assert statistics.mcnemar(first, second) == pytest.approx(expected, abs=1e-9)
    assert statistics.mcnemar(first, first) == 1.0


def test_spread_over_seeds_is_students_t():
    values = [0.91, 0.93, 0.90, 0.95, 0.92]
    found = statistics.over_seeds(values)
    expected = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert found.interval == pytest.approx(expected)
    assert found.std == pytest.approx(np.std(values, ddof=1))
    assert statistics.over_seeds([0.5]).interval is None
    with pytest.raises(ValueError, match="no runs"):
        statistics.over_seeds([])
