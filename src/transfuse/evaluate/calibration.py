"""Calibration: does a prediction made with 80 % confidence come true 80 % of the time?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 15


@dataclass
class Reliability:
    """Bins of equal width over (0, 1], closed on the right.

    Attributes:
        edges: [bins + 1].
        count: [bins], samples in the bin.
        confidence, accuracy: [bins], means over the bin; NaN where it is empty.
    """

    edges: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def ece(self) -> float:
        """sum over bins of (share of the samples) * |accuracy - confidence|."""
        filled = self.count > 0
        gaps = np.abs(self.accuracy[filled] - self.confidence[filled])
        return float((self.count[filled] / self.count.sum() * gaps).sum())


def bin_numbers(confidence: np.ndarray, bins: int = BINS) -> np.ndarray:
    """int [n], the bin (i/bins, (i+1)/bins] of each confidence; 0 belongs to the first."""
    return np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Reliability:
    """Bins of a reliability diagram, from [n] confidences of the predicted class and bool [n]."""
    numbers = bin_numbers(confidence, bins)
    count = np.bincount(numbers, minlength=bins)
    sums = [np.bincount(numbers, weights=values, minlength=bins) for values in (confidence, correct)]
    means = [np.divide(total, count, out=np.full(bins, np.nan), where=count > 0) for total in sums]
    return Reliability(np.linspace(0, 1, bins + 1), count, means[0], means[1])


def ece(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error of the predicted class (Guo et al., 2017, ICML, https://arxiv.org/abs/1706.04599).

    An estimate from finitely many samples is too high on average, the more so the fewer samples there are per bin.
    """
    return reliability(confidence, correct, bins).ece
