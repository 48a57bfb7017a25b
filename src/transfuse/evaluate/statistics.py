"""How far chance alone could move a number: intervals over test samples, paired tests, spread over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from transfuse.core.seeds import derive

RESAMPLES = 1000
_CHUNK = 4 * 10**6  # weights held at once: 32 MB

Weighted = Callable[[np.ndarray], np.ndarray]  # weights [b, n] -> values [b]


def wilson(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson, 1927, JASA 22); stays within [0, 1] and is sensible at 0 and 1.

    (p + z^2/2n ± z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p, spread = successes / n, z * z / n
    half = z * math.sqrt(p * (1 - p) / n + spread / (4 * n))
    low, high = (p + spread / 2 - half) / (1 + spread), (p + spread / 2 + half) / (1 + spread)
    return max(0.0, min(low, p)), min(1.0, max(high, p))  # at p = 0 or 1 rounding must not leave the point outside


def resampled_weights(n: int, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[np.ndarray]:
    """Chunks [b, n] of how often each of n samples occurs in draws of n with replacement; `resamples` rows in all."""
    random = np.random.default_rng(derive(seed, "bootstrap"))
    rows = max(1, min(resamples, _CHUNK // n))
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = random.integers(n, size=(count, n)) + np.arange(count)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n).astype(np.float64)


def bootstrap(
    n: int, statistics: Mapping[str, Weighted], resamples: int = RESAMPLES, seed: int = 0, confidence: float = 0.95
) -> dict[str, tuple[float, float] | None]:
    """Percentile bootstrap intervals of several statistics from the same resamples of n samples.

    Args:
        n: number of samples.
        statistics: name -> function of the samples' weights [b, n].
        resamples: number of resamples.
        seed: of the draws.
        confidence: share of the draws inside the interval.

    Returns:
        Name -> interval; None where more than one draw in twenty is undefined.
    """
    draws: dict[str, list[np.ndarray]] = {name: [] for name in statistics}
    for weights in resampled_weights(n, resamples, seed):
        for name, statistic in statistics.items():
            draws[name].append(statistic(weights))
    return {name: _percentiles(np.concatenate(parts), confidence) for name, parts in draws.items()}


def _percentiles(values: np.ndarray, confidence: float) -> tuple[float, float] | None:
    values = values[np.isfinite(values)] if np.isfinite(values).mean() >= 0.95 else values[:0]
    if not len(values):
        return None
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def paired_difference(
    n: int, first: Weighted, second: Weighted, resamples: int = RESAMPLES, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float] | None:
    """Bootstrap interval of second - first on the same samples: both statistics see the same resample each time."""
    return bootstrap(n, {"difference": lambda weights: second(weights) - first(weights)}, resamples, seed, confidence)["difference"]


def mcnemar(first_correct: np.ndarray, second_correct: np.ndarray) -> float:
    """Exact two-sided p-value that two classifiers err equally often, from the samples that only one of them gets right.

    Under the hypothesis, either is the one that is right with probability 1/2 (McNemar, 1947, Psychometrika 12).
    """
    from scipy.stats import binomtest

    only_first = int((first_correct & ~second_correct).sum())
    only_second = int((second_correct & ~first_correct).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second, 0.5).pvalue)


@dataclass
class Spread:
    """A number over repeated runs.

    Attributes:
        n: runs.
        mean: over runs.
        std: sample standard deviation (n - 1); None for a single run.
        interval: of the mean, by Student's t; None for a single run.
    """

    n: int
    mean: float
    std: float | None
    interval: tuple[float, float] | None


def over_seeds(values: Sequence[float], confidence: float = 0.95) -> Spread:
    """Mean, standard deviation and t-interval of the mean over runs with different seeds.

    Raises:
        ValueError: no values.
    """
    if not len(values):
        raise ValueError("no runs to average")
    n, mean = len(values), float(np.mean(values))
    if n == 1:
        return Spread(1, mean, None, None)
    from scipy.stats import t

    std = float(np.std(values, ddof=1))
    half = float(t.ppf((1 + confidence) / 2, n - 1)) * std / math.sqrt(n)
    return Spread(n, mean, std, (mean - half, mean + half))
