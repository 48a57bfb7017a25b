"""One temperature per source: the division of its logits by which its probabilities come true most nearly."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from transfuse.core.card import TaskName

WIDEST = (0.02, 50.0)  # what a source needs beyond these is not a temperature


def fit_temperatures(outputs: Tensor, labels: Tensor, task: TaskName) -> Tensor:
    """T_s = argmin_T mean_i -log p_s(y_i | x_i; T), with p_s = softmax(z_s / T), or sigmoids for a multilabel task.

    The loss is convex in 1/T, so a bounded search in one dimension finds its only minimum. A source that is right about every sample would
    get T = 0; it gets the lower bound instead, 0.02.

    Guo, Pleiss, Sun, Weinberger, 2017, ICML, "On Calibration of Modern Neural Networks", https://arxiv.org/abs/1706.04599.

    Args:
        outputs: float64 logits [sources, samples, outputs].
        labels: int [samples], or multi-hot [samples, outputs].
        task: classification or multilabel.

    Returns:
        float64 [sources].
    """
    from scipy.optimize import minimize_scalar

    low, high = (1 / bound for bound in reversed(WIDEST))
    found = []
    for logits in outputs:
        best = minimize_scalar(
            lambda log_inverse, logits=logits: label_loss(logits * math.exp(log_inverse), labels, task).mean().item(),
            bounds=(math.log(low), math.log(high)),
            method="bounded",
            options={"xatol": 1e-6},
        )
        found.append(math.exp(-best.x))
    return torch.tensor(found, dtype=torch.float64)


def label_loss(logits: Tensor, labels: Tensor, task: TaskName) -> Tensor:
    """-log p(label) per sample (per sample and class of a multilabel task), in nats."""
    if task == "multilabel":
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits), reduction="none")
    return F.cross_entropy(logits, labels, reduction="none")
