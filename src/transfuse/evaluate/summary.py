"""The numbers of summary.json: one block per model, one on what was transferred."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transfuse.core.card import TaskName
from transfuse.core.types import Target
from transfuse.errors import DataError
from transfuse.evaluate import metrics, statistics
from transfuse.evaluate.agreement import agreement, answered
from transfuse.evaluate.outcomes import ClassOutcomes, Outcomes, columns, outcomes, to_array

_LARGEST_SORTS = 5 * 10**7  # samples x classes x resamples: about two seconds for the intervals of metrics that sort
_COSTS = ("parameters", "macs", "macs_leave_out", "bytes", "memory", "latency_ms")


def model_summary(
    task: TaskName,
    outputs: Any,
    labels: Any,
    cost: Mapping[str, Any] | None,
    target: Target | None = None,
    seed: int = 0,
    top_k: Sequence[int] = metrics.TOP_K,
) -> dict[str, Any]:
    """One model's block: metrics, 95 % intervals, and cost.

    Args:
        task: what outputs and labels mean.
        outputs, labels, target: as in `metrics.compute`.
        cost: what `cost.measure` returned; None for a table of predictions, which has no network.
        seed: of the bootstrap.
        top_k: which top-k accuracies a classifier gets.

    Returns:
        {"metrics", "intervals", "samples"} and the costs of `cost.measure`, and "reasons" where something is None.
    """
    found = outcomes(task, outputs, labels, target)
    values, reasons = metrics.with_reasons(task, found, top_k)
    ranges, left_out = intervals(task, found, values, seed)
    reasons |= {f"intervals.{name}": reason for name, reason in left_out.items()}
    if cost is None:
        reasons |= dict.fromkeys(_COSTS, "a table of predictions: there is no network to measure")
    else:
        reasons |= cost.get("reasons") or {}
    costs = {key: cost.get(key) if cost is not None else None for key in _COSTS}
    block = {"metrics": values, "intervals": ranges, "samples": len(found), **costs}
    return block | ({"reasons": reasons} if reasons else {})


def intervals(
    task: TaskName, found: Outcomes, values: Mapping[str, float | None], seed: int = 0
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """95 % intervals over test samples of the metrics that have a value: Wilson for shares of samples, bootstrap for others.

    Returns:
        (name -> [low, high], name -> why there is none).
    """
    ranges: dict[str, list[float]] = {}
    left_out: dict[str, str] = {}
    drawn: dict[str, statistics.Weighted] = {}
    for name, value in values.items():
        if value is None:
            continue
        metric = metrics.named(task, name)
        if metric.interval == "wilson":
            ranges[name] = list(statistics.wilson(value * len(found), len(found)))
        elif metric.interval == "none":
            left_out[name] = "the estimate is biased, and resampling would add the bias again"
        elif metric.sorts and len(found) * getattr(found, "classes", 1) * statistics.RESAMPLES > _LARGEST_SORTS:
            left_out[name] = "left out: too many samples and classes to resample in reasonable time"
        else:
            drawn[name] = _statistic(metric, found)
    for name, interval in statistics.bootstrap(len(found), drawn, seed=seed).items() if drawn else ():
        if interval is None:
            left_out[name] = "undefined in too many resamples"
        else:
            ranges[name] = list(interval)
    return {name: ranges[name] for name in values if name in ranges}, left_out


def _statistic(metric: metrics.Metric, found: Outcomes, sign: int = 1) -> statistics.Weighted:
    return lambda weights: sign * metric.values(found, weights)


def transfer_summary(
    task: TaskName, labels: Any, student_outputs: Any, control_outputs: Any | None, teacher_outputs: Any | None, seed: int = 0
) -> dict[str, Any]:
    """What was transferred: the student's gain over its control, and how closely it follows its teacher.

    The gain is the difference of the primary metric, positive when the student is better (for rmse: control minus student). Its interval is
    a paired bootstrap over the test samples; it says nothing about other seeds. `mcnemar` is the exact p-value for classification.
    With several teachers, `agreement` and `kl` are towards the mean of their probabilities (of their predictions for regression), and
    `teachers` holds both for each.

    Args:
        task: what outputs and labels mean.
        labels: of the test split.
        student_outputs: [n, outputs], as in `metrics.compute`.
        control_outputs: the same of the control, or None.
        teacher_outputs: the same of the teacher, or name -> outputs, or None.
        seed: of the bootstrap.

    Returns:
        {"gain", "gain_interval", "agreement", "kl"}, what else is defined, and "reasons" for each None among the four.
    """
    result: dict[str, Any] = {"gain": None, "gain_interval": None, "agreement": None, "kl": None}
    reasons: dict[str, str] = {}
    if control_outputs is None:
        reasons |= dict.fromkeys(("gain", "gain_interval"), "there is no control")
    else:
        gained, why = _gain(task, outcomes(task, student_outputs, labels), outcomes(task, control_outputs, labels), seed)
        result |= gained
        reasons |= why
    teachers = dict(teacher_outputs) if isinstance(teacher_outputs, Mapping) else {"teacher": teacher_outputs}
    teachers = {name: to_array(outputs) for name, outputs in teachers.items() if outputs is not None}
    if not teachers:
        reasons |= dict.fromkeys(("agreement", "kl"), "there is no teacher")
    else:
        together = mean_prediction(task, teachers)
        result |= agreement(student_outputs, together, task)
        if control_outputs is not None:
            result |= {f"control_{key}": value for key, value in agreement(control_outputs, together, task).items()}
        if len(teachers) > 1:
            result["teachers"] = {name: agreement(student_outputs, outputs, task) for name, outputs in teachers.items()}
        missing = int((~answered(together)).sum())
        if missing:
            reasons["teacher"] = f"answers for {len(together) - missing} of {len(together)} samples; the others are left out"
        default = "not defined for regression" if task == "regression" else "infinite or without samples"
        reasons |= {key: default for key in ("agreement", "kl") if result[key] is None}
    return result | ({"reasons": reasons} if reasons else {})


def _gain(task: TaskName, student: Outcomes, control: Outcomes, seed: int) -> tuple[dict[str, Any], dict[str, str]]:
    if len(student) != len(control):
        raise DataError(f"student and control answered {len(student)} and {len(control)} samples", where="evaluation")
    name, higher = metrics.primary(task)
    metric = metrics.table(task)[name]
    (student_value, student_why), (control_value, control_why) = metrics.point(metric, student), metrics.point(metric, control)
    if student_value is None or control_value is None:
        reason = f"student: {student_why}" if student_why else f"control: {control_why}"
        return {}, dict.fromkeys(("gain", "gain_interval"), reason)
    sign = 1 if higher else -1
    low_high = statistics.paired_difference(len(student), _statistic(metric, control, sign), _statistic(metric, student, sign), seed=seed)
    found: dict[str, Any] = {"gain": sign * (student_value - control_value), "gain_interval": list(low_high) if low_high else None}
    if isinstance(student, ClassOutcomes) and isinstance(control, ClassOutcomes):
        found["mcnemar"] = statistics.mcnemar(control.correct, student.correct)
    return found, {} if low_high else {"gain_interval": "undefined in too many resamples"}


def mean_prediction(task: TaskName, models: Mapping[str, np.ndarray]) -> np.ndarray:
    """Log of the mean probability over models (as logits for several labels), or the mean prediction; one model as it is."""
    stacked = np.stack([columns(task, outputs).astype(np.float64) for outputs in models.values()])
    if len(stacked) == 1 or task == "regression":
        return stacked.mean(0)
    if task == "multilabel":
        log_p, log_not = (np.logaddexp.reduce(-np.logaddexp(0, sign * stacked)) for sign in (-1, 1))
        return log_p - log_not
    log_p = stacked - np.logaddexp.reduce(stacked, axis=2, keepdims=True)
    return np.logaddexp.reduce(log_p) - np.log(len(stacked))
