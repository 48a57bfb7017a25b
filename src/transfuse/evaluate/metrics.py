"""The metrics of each task. Undefined values are None, and `reasons` says why; scikit-learn agrees to 1e-6 where it has the metric.

Every metric is a function of (outcomes, weights [b, n]) -> [b]: with a row of ones it is the metric, with a resample's counts it is one
draw of the bootstrap, so a value and its interval can't be computed by two different formulas.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from transfuse.core.card import TaskName
from transfuse.core.registry import did_you_mean
from transfuse.core.types import Target
from transfuse.errors import DataError, NumericsError, RecipeError
from transfuse.evaluate import ranking
from transfuse.evaluate.calibration import BINS, bin_numbers
from transfuse.evaluate.outcomes import ClassOutcomes, MultilabelOutcomes, Outcomes, RegressionOutcomes, outcomes

TOP_K = (5,)  # of the accuracies that every summary has beside the plain one
Interval = Literal["bootstrap", "wilson", "none"]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        values: (outcomes, weights [b, n]) -> [b].
        higher_is_better: direction.
        quick: cheap enough for every validation.
        interval: how its uncertainty is estimated.
        undefined: why it has no value for these outcomes, or None.
        sorts: costs a sort per class, so that large bootstraps are left out.
    """

    values: Callable[[Any, np.ndarray], np.ndarray]
    higher_is_better: bool = True
    quick: bool = False
    interval: Interval = "bootstrap"
    undefined: Callable[[Any], str | None] = lambda outcomes: None
    sorts: bool = False


def _mean(column: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return weights @ column / weights.sum(1)


def _sum_by(groups: np.ndarray, count: int, weights: np.ndarray) -> np.ndarray:
    """Total weight of each group: [b, count]."""
    order = np.argsort(groups, kind="stable")
    present, starts = np.unique(groups[order], return_index=True)
    sums = np.zeros((len(weights), count))
    sums[:, present] = np.add.reduceat(weights[:, order], starts, axis=1)
    return sums


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _macro(kind: str, hits: np.ndarray, support: np.ndarray, predicted: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Mean over the counted classes of precision, recall or F1; all arguments [b, classes]; 0/0 is 0, as in scikit-learn."""
    above, below = {"precision": (hits, predicted), "recall": (hits, support), "f1": (2 * hits, support + predicted)}[kind]
    return (_ratio(above, below) * counted).sum(1) / counted.sum(1)


def _class_macro(kind: str, only_labels: bool = False) -> Callable[[ClassOutcomes, np.ndarray], np.ndarray]:
    """Macro average over the classes that occur among labels or predictions (among labels only for balanced accuracy)."""

    def values(found: ClassOutcomes, weights: np.ndarray) -> np.ndarray:
        support = _sum_by(found.labels, found.classes, weights)
        predicted = _sum_by(found.predicted, found.classes, weights)
        hits = _sum_by(found.labels, found.classes, weights * found.correct)
        counted = support > 0 if only_labels else (support > 0) | (predicted > 0)
        return _macro(kind, hits, support, predicted, counted)

    return values


def _ece(found: ClassOutcomes, weights: np.ndarray) -> np.ndarray:
    gaps = weights * (found.correct - found.confidence)
    return np.abs(_sum_by(bin_numbers(found.confidence), BINS, gaps)).sum(1) / weights.sum(1)


def _class_auroc(found: ClassOutcomes, weights: np.ndarray) -> np.ndarray:
    columns = [1] if found.classes == 2 else range(found.classes)  # of two classes, one against the other is the same either way
    return np.mean([ranking.auroc(found.probability(c), found.labels == c, weights) for c in columns], axis=0)


def _class_without_samples(found: ClassOutcomes) -> str | None:
    missing = np.flatnonzero(np.bincount(found.labels, minlength=found.classes) == 0)
    return f"{len(missing)} of {found.classes} classes have no sample here (class {missing[0]} is the first)" if len(missing) else None


def _infinite_nll(found: ClassOutcomes) -> str | None:
    count = int(np.isinf(found.nll).sum())
    return f"infinite: {count} samples have probability 0 for their label" if count else None


def _multilabel_macro(kind: str) -> Callable[[MultilabelOutcomes, np.ndarray], np.ndarray]:
    def values(found: MultilabelOutcomes, weights: np.ndarray) -> np.ndarray:
        sides = (found.labels & found.predicted, found.labels, found.predicted)
        hits, support, predicted = (weights @ side.astype(np.float64) for side in sides)
        return _macro(kind, hits, support, predicted, np.ones_like(hits))

    return values


def _bernoulli_nll(found: MultilabelOutcomes, weights: np.ndarray) -> np.ndarray:
    """-log p(label) = log(1 + exp(-z)) for a label that is there, log(1 + exp(z)) for one that isn't; mean over samples and classes."""
    logits = found.logits.astype(np.float64)
    return _mean(np.logaddexp(0, np.where(found.labels, -logits, logits)).mean(1), weights)


def _per_class(rank: Callable[..., np.ndarray]) -> Callable[[MultilabelOutcomes, np.ndarray], np.ndarray]:
    def values(found: MultilabelOutcomes, weights: np.ndarray) -> np.ndarray:
        return np.mean([rank(found.logits[:, c], found.labels[:, c], weights) for c in range(found.classes)], axis=0)

    return values


def _one_sided(negatives_too: bool) -> Callable[[MultilabelOutcomes], str | None]:
    def undefined(found: MultilabelOutcomes) -> str | None:
        share = found.labels.mean(0)
        empty = np.flatnonzero((share == 0) | ((share == 1) & negatives_too))
        words = "positive or no negative" if negatives_too else "positive"
        return (
            f"{len(empty)} of {found.classes} classes have no {words} sample here (class {empty[0]} is the first)" if len(empty) else None
        )

    return undefined


def _rmse(found: RegressionOutcomes, weights: np.ndarray) -> np.ndarray:
    squares = (found.predictions - found.labels) ** 2
    return np.sqrt(weights @ squares / weights.sum(1, keepdims=True)).mean(1)


def _r2(found: RegressionOutcomes, weights: np.ndarray) -> np.ndarray:
    """1 - sum (y - prediction)^2 / sum (y - mean y)^2, mean over targets."""
    total = weights.sum(1, keepdims=True)
    centred = found.labels - found.labels.mean(0)  # first, so that the difference of two large sums below loses no digits
    spread = weights @ centred**2 - (weights @ centred) ** 2 / total
    missed = weights @ (found.predictions - found.labels) ** 2
    return (1 - np.divide(missed, spread, out=np.full_like(missed, np.nan), where=spread > 0)).mean(1)


def _constant_labels(found: RegressionOutcomes) -> str | None:
    return "a target has the same value in every sample" if (np.ptp(found.labels, axis=0) == 0).any() else None


def _top(k: int) -> Metric:
    """The share of samples whose label is among the k likeliest classes."""
    return Metric(lambda found, weights: _mean(found.rank < k, weights), interval="wilson")


_TOP = re.compile(r"top([1-9]\d*)_accuracy")
_CLASSIFICATION: dict[str, Metric] = {
    "accuracy": Metric(lambda found, weights: _mean(found.correct, weights), quick=True, interval="wilson"),
    "precision": Metric(_class_macro("precision")),
    "recall": Metric(_class_macro("recall")),
    "f1": Metric(_class_macro("f1")),
    "balanced_accuracy": Metric(_class_macro("recall", only_labels=True)),
    "top5_accuracy": _top(5),
    "nll": Metric(lambda found, weights: _mean(found.nll, weights), False, quick=True, undefined=_infinite_nll),
    "brier": Metric(lambda found, weights: _mean(found.brier, weights), False),
    # no interval: the estimate is biased upwards, and resampling would add the bias a second time
    "ece": Metric(_ece, False, interval="none"),
    "auroc": Metric(_class_auroc, undefined=_class_without_samples, sorts=True),
}
_MULTILABEL: dict[str, Metric] = {
    "f1": Metric(_multilabel_macro("f1"), quick=True),
    "precision": Metric(_multilabel_macro("precision")),
    "recall": Metric(_multilabel_macro("recall")),
    "accuracy": Metric(lambda found, weights: _mean((found.labels == found.predicted).all(1), weights), interval="wilson"),
    "hamming": Metric(lambda found, weights: _mean((found.labels != found.predicted).mean(1), weights), False),
    "nll": Metric(_bernoulli_nll, False, quick=True),
    "auroc": Metric(_per_class(ranking.auroc), undefined=_one_sided(True), sorts=True),
    "map": Metric(_per_class(ranking.average_precision), undefined=_one_sided(False), sorts=True),
}
_REGRESSION: dict[str, Metric] = {
    "rmse": Metric(_rmse, False, quick=True),
    "mae": Metric(lambda found, weights: _mean(np.abs(found.predictions - found.labels).mean(1), weights), False, quick=True),
    "r2": Metric(_r2, quick=True, undefined=_constant_labels),
}
_TABLES = {"classification": _CLASSIFICATION, "multilabel": _MULTILABEL, "regression": _REGRESSION}


def table(task: TaskName, classes: int | None = None, top_k: Sequence[int] = TOP_K) -> dict[str, Metric]:
    """Name -> metric of a task, the primary one first; top-k accuracy only of more than k classes."""
    found: dict[str, Metric] = {}
    for name, metric in _TABLES[task].items():
        if _TOP.fullmatch(name):
            found |= {f"top{k}_accuracy": _top(k) for k in top_k if classes is None or k < classes}
        else:
            found[name] = metric
    return found


def primary(task: TaskName) -> tuple[str, bool]:
    """The task's first metric and whether higher is better: accuracy, f1 (macro) or rmse."""
    name = next(iter(_TABLES[task]))
    return name, _TABLES[task][name].higher_is_better


def higher_is_better(task: TaskName, name: str) -> bool:
    """The direction of a metric.

    Raises:
        RecipeError: the task has no such metric.
    """
    return named(task, name).higher_is_better


def named(task: TaskName, name: str) -> Metric:
    """A task's metric; of classification top-k accuracy for any k.

    Raises:
        RecipeError: the task has no such metric.
    """
    known = _TABLES[task]
    if task == "classification" and (found := _TOP.fullmatch(name)):
        return _top(int(found[1]))
    if name not in known:
        raise RecipeError(f"{task} has no metric '{name}'{did_you_mean(name, known)}", fix=f"known: {', '.join(known)}")
    return known[name]


def point(metric: Metric, found: Outcomes) -> tuple[float | None, str | None]:
    """(value, None), or (None, why it is undefined)."""
    reason = found.defect or metric.undefined(found)
    return (None, reason) if reason else (float(metric.values(found, np.ones((1, len(found))))[0]), None)


def with_reasons(task: TaskName, found: Outcomes, top_k: Sequence[int] = TOP_K) -> tuple[dict[str, float | None], dict[str, str]]:
    """All metrics of some outcomes, and for each None among them why."""
    results = {name: point(metric, found) for name, metric in table(task, getattr(found, "classes", None), top_k).items()}
    return {name: value for name, (value, _) in results.items()}, {name: reason for name, (_, reason) in results.items() if reason}


def compute(task: TaskName, outputs: Any, labels: Any, target: Target | None = None) -> dict[str, float | None]:
    """All metrics of a task over the labelled samples.

    Classification: accuracy; precision, recall, f1 (macro over the classes that occur among labels or predictions); balanced_accuracy;
    top5_accuracy (six classes or more); nll in nats; brier (sum over classes, halved for two); ece (15 bins); auroc (macro, one against
    the rest). Multilabel (a class is predicted where its logit is positive): f1, precision, recall (macro over classes), accuracy (all
    labels of a sample right), hamming (loss), nll (mean over classes), auroc, map. Regression: rmse, mae, r2, averaged over targets.

    Args:
        task: what outputs and labels mean.
        outputs: [n, classes] logits (one column: a Bernoulli logit), or [n, targets] predictions in original units.
        labels: int [n], multi-hot [n, classes] or float [n, targets]; -1 and NaN are left out.
        target: the regression targets, whose number must match.

    Returns:
        Name -> value, None where it is undefined: `reasons` says why.

    Raises:
        DataError: outputs and labels don't belong together.
    """
    return with_reasons(task, outcomes(task, outputs, labels, target))[0]


def reasons(task: TaskName, outputs: Any, labels: Any, target: Target | None = None) -> dict[str, str]:
    """For each metric that `compute` gives as None, why it is undefined."""
    return with_reasons(task, outcomes(task, outputs, labels, target))[1]


def _usable(task: TaskName, outputs: Any, labels: Any) -> Outcomes:
    found = outcomes(task, outputs, labels)
    if found.defect:
        error = DataError if not len(found) else NumericsError
        raise error(found.defect, where="validation")
    return found


def score(task: TaskName, name: str, outputs: Any, labels: Any) -> float:
    """One metric, for validation during training.

    Raises:
        RecipeError: the task has no such metric.
        DataError: no labelled samples, or the metric is undefined on them.
        NumericsError: outputs are not finite.
    """
    metric = named(task, name)
    value, reason = point(metric, _usable(task, outputs, labels))
    if value is None:
        raise DataError(f"{name} is undefined: {reason}", where="validation", fix=f"watch {primary(task)[0]} instead")
    return value


def quick(task: TaskName, outputs: Any, labels: Any) -> dict[str, float]:
    """The cheap metrics, for every validation: accuracy, nll; f1, nll; or rmse, mae, r2. Undefined ones are left out.

    Raises:
        DataError: no labelled samples.
        NumericsError: outputs are not finite.
    """
    found = _usable(task, outputs, labels)
    values = {name: point(metric, found)[0] for name, metric in table(task).items() if metric.quick}
    return {name: value for name, value in values.items() if value is not None}
