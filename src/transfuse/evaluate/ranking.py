"""Metrics of an ordering, with ties and sample weights: area under the ROC curve and average precision."""

import numpy as np


def _grouped(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of positives and of negatives per distinct score, scores rising: two arrays [b, distinct]."""
    order = np.argsort(scores, kind="stable")
    ordered, weights, positive = scores[order], weights[:, order], positive[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return np.add.reduceat(weights * positive, starts, axis=1), np.add.reduceat(weights * ~positive, starts, axis=1)


def auroc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """P(score of a positive > score of a negative) + P(equal) / 2, for each row of weights.

    Args:
        scores: [n].
        positive: bool [n].
        weights: [b, n], how often each sample counts.

    Returns:
        [b]; NaN where positives or negatives have no weight.
    """
    yes, no = _grouped(scores, positive, weights)
    below = np.cumsum(no, axis=1) - no
    pairs = yes.sum(1) * no.sum(1)
    return np.divide((yes * (below + no / 2)).sum(1), pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def average_precision(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sum over distinct thresholds of (gain in recall) * precision, for each row of weights; arguments as in `auroc`.

    Returns:
        [b]; NaN where positives have no weight.
    """
    yes, no = (side[:, ::-1] for side in _grouped(scores, positive, weights))
    found, asked = np.cumsum(yes, axis=1), np.cumsum(yes + no, axis=1)
    precision = np.divide(found, asked, out=np.zeros_like(found), where=asked > 0)
    total = yes.sum(1)
    return np.divide((yes * precision).sum(1), total, out=np.full(len(total), np.nan), where=total > 0)
