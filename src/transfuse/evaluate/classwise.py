"""Class by class: how often a class is found, how often what is called so is one, and how well it is ranked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from transfuse.evaluate import ranking
from transfuse.evaluate.calibration import Reliability
from transfuse.evaluate.outcomes import ClassOutcomes, MultilabelOutcomes


def per_class(found: ClassOutcomes | MultilabelOutcomes, names: Sequence[str]) -> list[dict[str, Any]]:
    """Samples, precision, recall, F1 and AUROC (the class against all others) of every class, in order.

    Precision is None where the class is never predicted, recall where it has no sample, F1 where neither, AUROC where no sample or every
    sample is of the class.

    Args:
        found: outcomes without a defect.
        names: one for each class.

    Returns:
        [{"class", "samples", "precision", "recall", "f1", "auroc"}].
    """
    support, predicted, hits = counts(found)
    rows = []
    for number, name in enumerate(names):
        below = {"precision": predicted[number], "recall": support[number], "f1": predicted[number] + support[number]}
        above = {"precision": hits[number], "recall": hits[number], "f1": 2 * hits[number]}
        shares = {key: _share(above[key], below[key]) for key in below}
        rows.append({"class": str(name), "samples": int(support[number]), **shares, "auroc": _auroc(found, number)})
    return rows


def _auroc(found: ClassOutcomes | MultilabelOutcomes, number: int) -> float | None:
    several = isinstance(found, MultilabelOutcomes)
    of_it = found.labels[:, number] if several else found.labels == number
    if not of_it.any() or of_it.all():
        return None
    scores = found.logits[:, number] if several else found.probability(number)
    return float(ranking.auroc(scores, of_it, np.ones((1, len(found))))[0])


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def counts(found: ClassOutcomes | MultilabelOutcomes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int [classes] each: samples of a class, predictions of it, and those of them that are right."""
    if isinstance(found, MultilabelOutcomes):
        sides = (found.labels, found.predicted, found.labels & found.predicted)
        support, predicted, hits = (side.sum(0) for side in sides)
        return support, predicted, hits
    numbers = (found.labels, found.predicted, found.labels[found.correct])
    support, predicted, hits = (np.bincount(values, minlength=found.classes) for values in numbers)
    return support, predicted, hits


def reliability_rows(bins: Reliability) -> dict[str, list[Any]]:
    """A reliability diagram as plain values: {"edges", "count", "confidence", "accuracy"}; None where a bin is empty."""
    means = {name: [None if np.isnan(value) else float(value) for value in getattr(bins, name)] for name in ("confidence", "accuracy")}
    return {"edges": [float(edge) for edge in bins.edges], "count": [int(count) for count in bins.count], **means}
