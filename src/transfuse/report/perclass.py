"""Class by class: confusions and who is better where, from the stored predictions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from transfuse.evaluate.outcomes import ClassOutcomes, MultilabelOutcomes, outcomes
from transfuse.report.collect import Predictions, RunFiles

LARGEST_MATRIX = 20  # classes; beyond that a matrix can't be read and the commonest confusions are listed


def class_outcomes(answers: Predictions) -> ClassOutcomes | None:
    """Outcomes of the samples that have an answer; None where there is none."""
    answered = np.isfinite(answers.outputs.max(1))
    found = outcomes("classification", answers.outputs[answered], answers.labels[answered])
    return found if isinstance(found, ClassOutcomes) and found.defect is None else None


def confusion(found: ClassOutcomes) -> np.ndarray:
    """int [classes, classes]: true class in rows, predicted class in columns."""
    cells = np.bincount(found.labels * found.classes + found.predicted, minlength=found.classes**2)
    return cells.reshape(found.classes, found.classes)


def with_shares(matrix: np.ndarray) -> list[list[tuple[int, float]]]:
    """Each cell with its share of the row, which is what its shade shows."""
    totals = np.maximum(matrix.sum(1, keepdims=True), 1)
    return [list(zip(counts, shares, strict=True)) for counts, shares in zip(matrix.tolist(), (matrix / totals).tolist(), strict=True)]


@dataclass
class Confusion:
    """One pair of classes that the student mixes up, and how often each model does so."""

    true: str
    predicted: str
    counts: dict[str, int]


def top_confusions(found: dict[str, ClassOutcomes], names: list[str], most: int = 15) -> list[Confusion]:
    """The student's commonest confusions, largest first; of equal ones those of the first classes. Counts pairs that occur, no matrix."""
    pairs = {model: np.stack([one.labels, one.predicted], axis=1) for model, one in found.items()}
    wrong, counts = np.unique(pairs["student"][pairs["student"][:, 0] != pairs["student"][:, 1]], axis=0, return_counts=True)
    chosen = wrong[np.argsort(-counts, kind="stable")[:most]]
    return [
        Confusion(names[true], names[predicted], {model: int((rows == (true, predicted)).all(1).sum()) for model, rows in pairs.items()})
        for true, predicted in chosen
    ]


@dataclass
class ClassRow:
    """One class: samples of it in the test split, and each model's recall (classification) or F1 (multilabel)."""

    name: str
    samples: int
    values: dict[str, float]


def per_class(run: RunFiles, models: dict[str, Predictions]) -> list[ClassRow]:
    """Per-class results of all models on the classes that occur, in the classes' order."""
    results: dict[str, np.ndarray] = {}
    samples = np.zeros(0)
    for model, answers in models.items():
        counted = _recall(answers) if run.task == "classification" else _f1(answers)
        if counted is not None:
            results[model] = counted[1]
            samples = counted[0] if model == "student" or not len(samples) else samples
    names = run.names(len(samples))
    return [
        ClassRow(names[c], int(samples[c]), {model: float(values[c]) for model, values in results.items() if c < len(values)})
        for c in range(len(samples))
        if samples[c]
    ]


def _recall(answers: Predictions) -> tuple[np.ndarray, np.ndarray] | None:
    found = class_outcomes(answers)
    if found is None:
        return None
    support = np.bincount(found.labels, minlength=found.classes)
    hits = np.bincount(found.labels[found.correct], minlength=found.classes)
    return support, hits / np.maximum(support, 1)


def _f1(answers: Predictions) -> tuple[np.ndarray, np.ndarray] | None:
    found = outcomes("multilabel", answers.outputs, answers.labels)
    if not isinstance(found, MultilabelOutcomes) or found.defect is not None:
        return None
    support, predicted = found.labels.sum(0), found.predicted.sum(0)
    return support, 2 * (found.labels & found.predicted).sum(0) / np.maximum(support + predicted, 1)


def most_telling(rows: list[ClassRow], against: str, most: int = 20) -> list[ClassRow]:
    """Rows sorted by the gap, the student's value minus `against`'s.

    Of many classes, those at both ends of gap * sqrt(samples): a class of one sample is always at one end of the plain gap.
    """

    def gap(row: ClassRow) -> float:
        return row.values["student"] - row.values.get(against, 0)

    if len(rows) > most:
        ordered = sorted(rows, key=lambda row: gap(row) * row.samples**0.5)
        rows = ordered[: most // 2] + ordered[-(most // 2) :]
    return sorted(rows, key=lambda row: (gap(row), row.name))
