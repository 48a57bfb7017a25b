"""Stacking: a linear model that reads all sources' answers and gives one, its strength of regularisation chosen by cross-fitting."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from transfuse.core.card import Card, TaskName
from transfuse.core.numerics import log_softmax_at
from transfuse.fusion.output_rule import OutputRule, Outputs

CARD = Card(
    title="Stacking (logistic regression; ridge for regression)",
    paper="Wolpert, 1992, Neural Networks 5; Ting, Witten, 1999, JAIR 10",
    link="https://doi.org/10.1016/S0893-6080(05)80023-1",
    needs=("labels",),
    tasks=("classification", "regression"),
    cost="sources x classes x classes numbers are fitted, in seconds; wants a few hundred labels",
)
FOLDS = 5
_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C: small is smooth
_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)  # ridge, per sample


def stacking(
    outputs: Outputs, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, "outputs"], task: TaskName = "classification"
) -> Float[Tensor, "samples outputs"]:
    """log softmax(W a + b), with a = all sources' log-probabilities one behind the other; of a regression W f + b.

    Args:
        outputs: logits or predictions [sources, samples, outputs].
        weight: [outputs, sources * outputs].
        bias: [outputs].
        task: what the outputs mean.
    """
    joined = stacked(outputs, task) @ weight.T + bias
    return joined if task == "regression" else log_softmax_at(joined)


def stacked(outputs: Outputs, task: TaskName) -> Float[Tensor, "samples inputs"]:
    """All sources' answers side by side: log-probabilities, floored at -20 so that a table's zeros don't outweigh everything."""
    answers = outputs if task == "regression" else log_softmax_at(outputs).clamp(min=-20)
    return answers.transpose(0, 1).flatten(1)


class Stacking(OutputRule):
    """A linear model over the answers of all sources.

    Classes: multinomial logistic regression with an L2 penalty; the strength is the one of five with the best out-of-fold NLL over five
    stratified folds. Regression: ridge regression, strength chosen the same way by squared error.

    Deviation: the papers make the second level's training data by refitting the sources in each fold; here sources are finished networks,
    so their answers on samples that they were not trained on are the data, and only the second level is cross-fitted.

    Args:
        task: what the outputs mean.
        calibrate: fit a temperature to each source first.

    Raises:
        ValueError: in `fit`, a class with fewer than two labelled samples.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, task: TaskName = "classification", calibrate: bool = False):
        super().__init__(task, calibrate)

    def prepare(self, sources: int, outputs: int) -> None:
        self.register_buffer("weight", torch.eye(outputs).repeat(1, sources) / sources)
        self.register_buffer("bias", torch.zeros(outputs))

    def learn(self, outputs: Outputs, labels: Tensor) -> None:
        inputs = stacked(outputs, self.task).numpy()
        if self.task == "regression":
            weight, bias = _ridge(inputs, labels.reshape(outputs.shape[1:]).double().numpy())
        else:
            weight, bias = _logistic(inputs, labels.numpy(), outputs.shape[2])
        self.weight.copy_(torch.from_numpy(weight))
        self.bias.copy_(torch.from_numpy(bias))

    def join(self, outputs: Outputs) -> Float[Tensor, "samples outputs"]:
        return stacking(outputs, self.weight.to(outputs), self.bias.to(outputs), self.task)


def _logistic(inputs: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight [classes, inputs] and bias [classes] of the penalised logistic regression."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    counts = np.bincount(labels, minlength=classes)
    if counts.min() < 2:
        few = f"{counts.min()} labelled {'sample' if counts.min() == 1 else 'samples'}"
        raise ValueError(f"stacking: output {counts.argmin()} has {few}; two of each class are needed")
    mean, spread = inputs.mean(0), inputs.std() + 1e-12
    scaled = (inputs - mean) / spread  # one scale for all: the sources' own confidence stays comparable
    folds = StratifiedKFold(min(FOLDS, int(counts.min())), shuffle=True, random_state=0)

    def model(strength: float) -> LogisticRegression:
        return LogisticRegression(C=strength, max_iter=1000)

    def loss(strength: float) -> float:
        return log_loss(labels, cross_val_predict(model(strength), scaled, labels, cv=folds, method="predict_proba"))

    best = model(min(_STRENGTHS, key=loss)).fit(scaled, labels)
    weight, bias = best.coef_, best.intercept_
    if classes == 2:  # scikit-learn gives the log-odds of the second class
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / spread
    return weight, bias - weight @ mean


def _ridge(inputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import KFold, cross_val_predict

    folds = KFold(min(FOLDS, len(labels)), shuffle=True, random_state=0)

    def loss(penalty: float) -> float:
        return float(((cross_val_predict(Ridge(penalty * len(labels)), inputs, labels, cv=folds) - labels) ** 2).mean())

    best = Ridge(min(_PENALTIES, key=loss) * len(labels)).fit(inputs, labels)
    return np.atleast_2d(best.coef_), np.atleast_1d(best.intercept_)
