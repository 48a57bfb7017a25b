"""How a student differs from its teacher: class by class, sample by sample, and in what its layers hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from transfuse.core.card import TaskName
from transfuse.evaluate.agreement import agreement, answered
from transfuse.evaluate.classwise import per_class
from transfuse.evaluate.outcomes import ClassOutcomes, columns, outcomes, to_array


def fidelity(task: TaskName, student_outputs: Any, teacher_outputs: Any, labels: Any, classes: Sequence[str]) -> dict[str, Any]:
    """Agreement and KL as in `agreement`, who is right where they differ, and how far each class was transferred.

    Samples that either has no answer for are left out.

    Args:
        task: what the outputs mean.
        student_outputs, teacher_outputs: [n, outputs] for the same samples.
        labels: as in `metrics.compute`.
        classes: names, empty for regression.

    Returns:
        What `agreement` gives; for classification also "both_right", "only_student_right", "only_teacher_right", "both_wrong" (numbers of
        labelled samples) and "per_class": [{"class", "samples", "student", "teacher", "gap", "agreement"}], recalls and their difference.
    """
    student, teacher = (columns(task, to_array(values)) for values in (student_outputs, teacher_outputs))
    found: dict[str, Any] = dict(agreement(student, teacher, task))
    if task != "classification":
        return found
    labels = to_array(labels)
    known = answered(student) & answered(teacher) & (labels >= 0)
    two = [outcomes(task, values[known], labels[known]) for values in (student, teacher)]
    own, taught = two
    if not known.any() or not isinstance(own, ClassOutcomes) or not isinstance(taught, ClassOutcomes):
        return found
    found |= {
        "both_right": int((own.correct & taught.correct).sum()),
        "only_student_right": int((own.correct & ~taught.correct).sum()),
        "only_teacher_right": int((~own.correct & taught.correct).sum()),
        "both_wrong": int((~own.correct & ~taught.correct).sum()),
    }
    same = own.predicted == taught.predicted
    rows = []
    for number, (mine, theirs) in enumerate(zip(per_class(own, classes), per_class(taught, classes), strict=True)):
        if mine["samples"]:
            gap = mine["recall"] - theirs["recall"]
            share = float(same[own.labels == number].mean())
            row = {"class": mine["class"], "samples": mine["samples"], "student": mine["recall"], "teacher": theirs["recall"]}
            rows.append(row | {"gap": gap, "agreement": share})
    return found | {"per_class": rows}


def linear_cka(first: np.ndarray, second: np.ndarray) -> float | None:
    """Linear centred kernel alignment of two layers' features (Kornblith et al., 2019, ICML, https://arxiv.org/abs/1905.00414).

    |Y'X|_F^2 / (|X'X|_F |Y'Y|_F) with centred columns: 1 where one is a rotation and scaling of the other. With fewer samples than
    features it is too high, also between unrelated layers. Computed in whichever of samples and features are fewer.

    Args:
        first, second: float [n, features], for the same samples.

    Returns:
        The value; None where a layer says the same about every sample.
    """
    x, y = (np.asarray(values, np.float64) - np.asarray(values, np.float64).mean(0) for values in (first, second))
    if len(x) < max(x.shape[1], y.shape[1]):
        kernels = (x @ x.T, y @ y.T)
        above, below = float((kernels[0] * kernels[1]).sum()), [float(np.linalg.norm(kernel)) for kernel in kernels]
    else:
        above, below = float((x.T @ y).ravel() @ (x.T @ y).ravel()), [float(np.linalg.norm(values.T @ values)) for values in (x, y)]
    return above / (below[0] * below[1]) if below[0] and below[1] else None
