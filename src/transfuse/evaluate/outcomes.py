"""What each sample's outputs say about its label: the per-sample numbers from which every metric and every interval is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from transfuse.core.card import TaskName
from transfuse.core.types import Target
from transfuse.errors import DataError

_CHUNK = 2**21  # numbers handled at once in float64, so that 100,000 samples of 1,000 classes need no second copy


@dataclass
class ClassOutcomes:
    """Classification, one label per sample.

    Attributes:
        logits: [n, classes] as the model gave them; a single Bernoulli logit z has become the pair (0, z).
        labels, predicted: int64 [n]; ties go to the first class.
        log_normaliser: float64 [n], log sum_c exp(logit_c).
        confidence: float64 [n], the predicted class's probability.
        nll: float64 [n], -log p(label), in nats.
        brier: float64 [n], sum_c (p_c - [c = label])^2, halved for two classes.
        rank: int64 [n], how many classes come before the label; ties are ordered by class number.
        defect: why no metric is defined, or None.
    """

    logits: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    log_normaliser: np.ndarray
    confidence: np.ndarray
    nll: np.ndarray
    brier: np.ndarray
    rank: np.ndarray
    defect: str | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> int:
        return self.logits.shape[1]

    @property
    def correct(self) -> np.ndarray:
        return self.predicted == self.labels

    def probability(self, number: int) -> np.ndarray:
        """p(class), float64 [n]; a column at a time, because all of them may not fit."""
        return np.exp(self.logits[:, number].astype(np.float64) - self.log_normaliser)


@dataclass
class MultilabelOutcomes:
    """Several labels per sample: logits float [n, classes], labels bool [n, classes]; a class is predicted where its logit is positive."""

    logits: np.ndarray
    labels: np.ndarray
    defect: str | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> int:
        return self.logits.shape[1]

    @property
    def predicted(self) -> np.ndarray:
        return self.logits > 0


@dataclass
class RegressionOutcomes:
    """Predictions and labels in original units, float64 [n, targets]."""

    predictions: np.ndarray
    labels: np.ndarray
    defect: str | None = None

    def __len__(self) -> int:
        return len(self.labels)


Outcomes = ClassOutcomes | MultilabelOutcomes | RegressionOutcomes


def to_array(values: Any) -> np.ndarray:
    """Tensor of any device and precision, array or nested list -> numpy array."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.numpy() if values.dtype.itemsize != 2 else values.float().numpy()  # numpy knows no bfloat16
    return np.asarray(values)


def columns(task: TaskName, outputs: np.ndarray) -> np.ndarray:
    """[n] or [n, outputs] -> [n, outputs]; a class given as a single Bernoulli logit z becomes the pair (0, z), which says the same."""
    outputs = outputs[:, None] if outputs.ndim == 1 else outputs
    if task == "classification" and outputs.shape[1] == 1:
        return np.concatenate([np.zeros_like(outputs), outputs], axis=1)
    return outputs


def outcomes(task: TaskName, outputs: Any, labels: Any, target: Target | None = None) -> Outcomes:
    """Per-sample results over the labelled samples; samples without a label (-1, NaN) are left out.

    Args:
        task: what the outputs mean.
        outputs: [n, classes] logits, or [n, targets] predictions in original units.
        labels: int [n], multi-hot [n, classes] or float [n, targets].
        target: the regression targets, whose number must match.

    Raises:
        DataError: outputs and labels don't belong together.
    """
    predictions, truth = columns(task, to_array(outputs)), to_array(labels)
    if predictions.ndim != 2 or len(predictions) != len(truth):
        raise DataError(f"outputs of shape {predictions.shape} don't fit {len(truth)} labels", where="evaluation")
    if task == "classification":
        return _classification(predictions, truth)
    if truth.ndim == 1:
        truth = truth[:, None]
    wanted = len(target.names) if target is not None else truth.shape[1]
    if truth.shape != predictions.shape or wanted != truth.shape[1]:
        raise DataError(f"outputs of shape {predictions.shape} don't fit labels of shape {truth.shape}", where="evaluation")
    labelled = ~np.isnan(truth.astype(np.float64)).any(1)
    predictions, truth = predictions[labelled], truth[labelled]
    defect = _defect(predictions, np.asarray(np.isfinite(predictions).all(1)))
    if task == "multilabel":
        return MultilabelOutcomes(predictions, truth > 0.5, defect)
    return RegressionOutcomes(predictions.astype(np.float64), truth.astype(np.float64), defect)


def _defect(predictions: np.ndarray, usable: np.ndarray) -> str | None:
    if not len(predictions):
        return "no labelled samples"
    bad = int((~usable).sum())
    return f"{bad} of {len(usable)} samples have no finite output" if bad else None


def _classification(logits: np.ndarray, labels: np.ndarray) -> ClassOutcomes:
    if labels.ndim != 1:
        raise DataError(f"classification takes one class number per sample, not labels of shape {labels.shape}", where="evaluation")
    labelled = labels >= 0
    logits, labels = logits[labelled], labels[labelled].astype(np.int64)
    if len(labels) and labels.max() >= logits.shape[1]:
        raise DataError(f"label {labels.max()} is out of range for {logits.shape[1]} outputs", where="evaluation")
    # -inf is fine (a table of probabilities may hold zeros), as long as something is left in the row
    highest = logits.max(1) if logits.size else np.empty(0)
    defect = _defect(logits, np.isfinite(highest))  # the maximum is NaN, +inf or -inf exactly where the row is unusable
    numbers = [np.zeros(len(labels)) for _ in range(5)]
    log_normaliser, confidence, nll, brier, rank = numbers
    if defect is None:
        rows = max(1, _CHUNK // logits.shape[1])
        for start in range(0, len(labels), rows):
            part = slice(start, start + rows)
            for column, values in zip(numbers, _rows(logits[part].astype(np.float64), labels[part]), strict=True):
                column[part] = values
    predicted = logits.argmax(1) if defect is None else np.zeros(len(labels), np.int64)
    return ClassOutcomes(logits, labels, predicted, log_normaliser, confidence, nll, brier, rank.astype(np.int64), defect)


def _rows(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
    highest = logits.max(1, keepdims=True)
    probabilities = np.exp(logits - highest)
    total = probabilities.sum(1, keepdims=True)
    probabilities /= total
    log_normaliser = (highest + np.log(total))[:, 0]
    rows = np.arange(len(labels))
    own, own_p = logits[rows, labels], probabilities[rows, labels]
    brier = (probabilities**2).sum(1) - 2 * own_p + 1
    if logits.shape[1] == 2:
        brier = brier / 2  # the binary score's usual form, (p_1 - y)^2
    before = np.arange(logits.shape[1]) < labels[:, None]
    rank = (logits > own[:, None]).sum(1) + ((logits == own[:, None]) & before).sum(1)
    return log_normaliser, probabilities.max(1), log_normaliser - own, brier, rank
