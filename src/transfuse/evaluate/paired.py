"""Two models on the same samples: is the difference more than chance in these samples?"""

from __future__ import annotations

from itertools import combinations
from typing import Any

from transfuse.core.card import TaskName
from transfuse.errors import DataError
from transfuse.evaluate import metrics, statistics
from transfuse.evaluate.outcomes import ClassOutcomes, Outcomes


def paired_test(task: TaskName, names: tuple[str, str], first: Outcomes, second: Outcomes, seed: int = 0) -> dict[str, Any]:
    """The difference of the primary metric, second minus first, with what chance in the samples could make of it.

    Args:
        task: what the outcomes are of.
        names: of both models.
        first, second: outcomes on the same samples in the same order.
        seed: of the bootstrap.

    Returns:
        {"models", "metric", "difference", "interval", "reason"}, and for classification "only_first_right", "only_second_right" and
        "mcnemar", the exact p-value that both err equally often.

    Raises:
        DataError: they are not of the same samples.
    """
    if len(first) != len(second):
        raise DataError(f"{names[0]} and {names[1]} answered {len(first)} and {len(second)} samples", where="evaluation")
    name = metrics.primary(task)[0]
    metric = metrics.table(task)[name]
    values = [metrics.point(metric, found) for found in (first, second)]
    row: dict[str, Any] = {"models": list(names), "metric": name, "difference": None, "interval": None}
    for model, (value, reason) in zip(names, values, strict=True):
        if value is None:
            return row | {"reason": f"{model}: {reason}"}
    low_high = statistics.paired_difference(
        len(first), lambda weights: metric.values(first, weights), lambda weights: metric.values(second, weights), seed=seed
    )
    row |= {"difference": (values[1][0] or 0.0) - (values[0][0] or 0.0), "interval": list(low_high) if low_high else None}
    if isinstance(first, ClassOutcomes) and isinstance(second, ClassOutcomes):
        row["only_first_right"] = int((first.correct & ~second.correct).sum())
        row["only_second_right"] = int((second.correct & ~first.correct).sum())
        row["mcnemar"] = statistics.mcnemar(first.correct, second.correct)
    return row


def paired_tests(task: TaskName, found: dict[str, Outcomes], seed: int = 0, against: str | None = None) -> list[dict[str, Any]]:
    """Every pair of models, or one of them against all others, in order."""
    pairs = combinations(found, 2) if against is None else ((against, name) for name in found if name != against)
    return [paired_test(task, (one, other), found[one], found[other], seed) for one, other in pairs]
