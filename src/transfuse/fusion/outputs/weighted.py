"""A weighted mean of the sources' probabilities, with the weights that explain validation labels best."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from transfuse.core.card import Card, TaskName
from transfuse.fusion.output_rule import OutputRule, Outputs, as_answer, log_probabilities, of_label

CARD = Card(
    title="Weighted mean of probabilities (linear opinion pool, convex NLL)",
    paper="Genest, Zidek, 1986, Statistical Science 1 (pools); Dempster, Laird, Rubin, 1977, JRSS B (EM)",
    link="https://doi.org/10.1214/ss/1177013825",
    needs=("labels",),
    tasks=("classification", "multilabel", "regression"),
    cost="one number per source is fitted, in well under a second",
)
_MOST_STEPS = 20_000
_TOLERANCE = 1e-10


def weighted(outputs: Outputs, weights: Float[Tensor, "sources"], task: TaskName = "classification") -> Float[Tensor, "samples outputs"]:
    """log sum_s w_s p_s; of a multilabel task as log-odds; of a regression sum_s w_s f_s.

    Args:
        outputs: logits or predictions [sources, samples, outputs].
        weights: at least 0, of sum 1.
        task: what the outputs mean.
    """
    if task == "regression":
        return torch.einsum("s,sno->no", weights, outputs)
    log_p = log_probabilities(outputs, task)
    log_weights = weights.log().view(-1, *[1] * (log_p.ndim - 1))
    return as_answer(torch.logsumexp(log_p + log_weights, 0), task)


def likeliest_weights(log_p: Float[Tensor, "sources samples"]) -> Float[Tensor, "sources"]:
    """argmin_w -mean_i log sum_s w_s p_s(y_i) over the simplex, a convex problem without local minima.

    Solved by expectation maximisation, w_s <- mean_i w_s p_s(y_i) / sum_t w_t p_t(y_i), which never leaves the simplex and never gets
    worse. At the minimum mean_i p_s(y_i) / sum_t w_t p_t(y_i) is 1 where w_s > 0 and at most 1 elsewhere.

    Args:
        log_p: float64, log-probability that each source gives to what is true.
    """
    likelihood = (log_p - log_p.amax(0)).exp()
    weights = torch.full((len(log_p),), 1 / len(log_p), dtype=torch.float64)
    for _ in range(_MOST_STEPS):
        ratio = (likelihood / (weights @ likelihood)).mean(1)
        weights = weights * ratio
        gap = float(torch.where(weights > _TOLERANCE, (ratio - 1).abs(), (ratio - 1).clamp(min=0)).max())
        if gap < 1e-8:
            break
    return weights / weights.sum()


def closest_weights(predictions: Float[Tensor, "sources samples outputs"], labels: Float[Tensor, "samples outputs"]) -> Tensor:
    """argmin_w mean_i |sum_s w_s f_s(x_i) - y_i|^2 over the simplex: a quadratic programme in as many numbers as there are sources.

    Args:
        predictions, labels: float64.
    """
    from scipy.optimize import minimize

    count = len(predictions)
    flat, truth = predictions.reshape(count, -1).numpy(), labels.reshape(-1).numpy()
    square, mixed = flat @ flat.T / len(truth), flat @ truth / len(truth)
    found = minimize(
        lambda w: w @ square @ w - 2 * mixed @ w,
        np.full(count, 1 / count),
        jac=lambda w: 2 * (square @ w - mixed),
        bounds=[(0.0, 1.0)] * count,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(count)},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    weights = torch.from_numpy(found.x).clamp(min=0)
    return weights / weights.sum()


class Weighted(OutputRule):
    """A weighted mean of probabilities; the weights minimise the validation NLL (the squared error of a regression), a convex problem.

    Args:
        task: what the outputs mean.
        calibrate: fit a temperature to each source first.
    """

    weights: Tensor

    def __init__(self, task: TaskName = "classification", calibrate: bool = False):
        super().__init__(task, calibrate)

    def prepare(self, sources: int, outputs: int) -> None:
        self.register_buffer("weights", torch.full((sources,), 1 / sources))

    def learn(self, outputs: Outputs, labels: Tensor) -> None:
        if self.task == "regression":
            self.weights.copy_(closest_weights(outputs, labels.reshape(outputs.shape[1:]).double()))
        else:
            self.weights.copy_(likeliest_weights(of_label(log_probabilities(outputs, self.task), labels, self.task)))

    def join(self, outputs: Outputs) -> Float[Tensor, "samples outputs"]:
        return weighted(outputs, self.weights.to(outputs), self.task)

    def source_weights(self) -> Tensor:
        return self.weights
