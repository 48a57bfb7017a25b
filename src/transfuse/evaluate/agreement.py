"""Fidelity: how closely a student follows its teacher, right or wrong."""

from __future__ import annotations

from typing import Any

import numpy as np

from transfuse.core.card import TaskName
from transfuse.errors import DataError
from transfuse.evaluate.outcomes import columns, to_array

_ROWS = 4096


def agreement(student_outputs: Any, teacher_outputs: Any, task: TaskName) -> dict[str, float | None]:
    """Top-1 agreement and mean KL(teacher || student) at temperature 1, in nats.

    Classification: the share of samples with the same predicted class, and the KL of the softmax; one logit z counts as the pair (0, z).
    Multilabel: the share of equal decisions and the Bernoulli KL, both averaged over samples and classes. Regression: both are None, and
    `rmse_to_teacher` is the root mean squared difference, averaged over targets, in original units. Samples that the teacher has no finite
    answer for (a table with gaps) are left out; the KL is None where it is infinite (the student gives 0 where the teacher doesn't).

    Args:
        student_outputs, teacher_outputs: [n, classes] logits or [n, targets] predictions, for the same samples.
        task: what they mean.

    Raises:
        DataError: the shapes differ.
    """
    student, teacher = (columns(task, to_array(outputs)) for outputs in (student_outputs, teacher_outputs))
    if student.shape != teacher.shape:
        raise DataError(f"outputs of shapes {student.shape} (student) and {teacher.shape} (teacher) can't be compared", where="evaluation")
    known = answered(student) & answered(teacher)
    student, teacher = student[known], teacher[known]
    if task == "regression":
        apart = np.sqrt(((student - teacher).astype(np.float64) ** 2).mean(0)).mean() if len(student) else None
        return {"agreement": None, "kl": None, "rmse_to_teacher": None if apart is None else float(apart)}
    if not len(student):
        return {"agreement": None, "kl": None}
    same = ((student > 0) == (teacher > 0)).mean() if task == "multilabel" else (student.argmax(1) == teacher.argmax(1)).mean()
    total = 0.0
    for start in range(0, len(student), _ROWS):
        part = slice(start, start + _ROWS)
        total += _divergence(_log_p(teacher[part], task), _log_p(student[part], task))
    kl = total / (student.size if task == "multilabel" else len(student))
    return {"agreement": float(same), "kl": kl if np.isfinite(kl) else None}


def answered(outputs: np.ndarray) -> np.ndarray:
    """bool [n]: rows that hold an answer; NaN means none, -inf a probability of zero."""
    return np.isfinite(outputs.max(1)) if outputs.size else np.zeros(len(outputs), bool)


def _log_p(logits: np.ndarray, task: TaskName) -> np.ndarray:
    """Log-probabilities over the last axis: of all classes, or of no and yes for each class of a multilabel task."""
    logits = logits.astype(np.float64)
    if task == "multilabel":
        logits = np.stack([np.zeros_like(logits), logits], axis=-1)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _divergence(teacher_log_p: np.ndarray, student_log_p: np.ndarray) -> float:
    """Sum of p (log p - log q) over everything, where a p of 0 adds nothing."""
    p = np.exp(teacher_log_p)
    with np.errstate(invalid="ignore"):  # -inf - -inf, where p is 0
        return float(np.where(p > 0, p * (teacher_log_p - student_log_p), 0).sum())
