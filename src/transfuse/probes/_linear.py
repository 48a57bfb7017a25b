"""Coefficients as a linear layer, with a row for every class whether or not a fit has met it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

NEVER = -30.0  # logit of a class of which there was no sample: about 1e-13 beside the others


def layer_of(weight: np.ndarray, bias: np.ndarray) -> nn.Linear:
    """outputs = inputs @ weight.T + bias, from [outputs, width] and [outputs]."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))
    return layer.requires_grad_(False)


def class_rows(weight: np.ndarray, bias: np.ndarray, known: np.ndarray, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's coefficients of the classes that it has met -> one row per class; of two classes it gives one row, the second's.

    Two classes become (-z/2, z/2), whose softmax is sigmoid(z).
    """
    if len(known) == 2 and len(weight) == 1:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    all_weights = np.zeros((outputs, weight.shape[1]))
    all_biases = np.full(outputs, min(bias.min(initial=0.0), 0.0) + NEVER)
    all_weights[known], all_biases[known] = weight, bias
    return all_weights, all_biases
