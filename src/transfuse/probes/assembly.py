"""From a fitted head to the layers that a network ends in: preparation and head, folded into one layer where both are linear."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from transfuse.core.predictors import KernelMachine
from transfuse.probes.preparation import Preparation


def ending(preparation: Preparation, head: nn.Module) -> list[nn.Module]:
    """Layers from features to outputs; a linear head is one linear layer, an MLP a layer less than it would be."""
    if isinstance(head, nn.Linear):
        return [preparation.folded(head)]
    layers = list(head) if isinstance(head, nn.Sequential) else []
    if layers and isinstance(layers[0], nn.Linear):
        return [preparation.folded(layers[0]), *layers[1:]]
    return [*preparation.layers(), head]


def outputs_of(head: nn.Module, features: np.ndarray) -> np.ndarray:
    """float64 [rows, outputs] of prepared features."""
    with torch.no_grad():
        parts = [head(part) for part in torch.from_numpy(features).split(1024)]
    return torch.cat(parts).double().numpy()


def sharpened(head: nn.Module, factor: float) -> nn.Module:
    """The same head with its outputs multiplied, in place.

    Raises:
        TypeError: not a head whose outputs are linear in its last coefficients.
    """
    if not isinstance(head, (nn.Linear, KernelMachine)):
        raise TypeError(f"the outputs of {type(head).__name__} can't be multiplied")
    with torch.no_grad():
        head.weight.mul_(factor)
        head.bias.mul_(factor)
    return head


def fitted_factor(outputs: np.ndarray, labels: np.ndarray, several: bool) -> float:
    """The factor at which held-out margins have the least negative log-likelihood: temperature scaling, 1 / T.

    Source: Guo, Pleiss, Sun, Weinberger, 2017, ICML (https://arxiv.org/abs/1706.04599), on out-of-fold outputs in place of a validation
    part.

    Args:
        outputs: float64 [rows, outputs].
        labels: int64 [rows], or 0 and 1 [rows, outputs].
        several: whether several labels can be true at once.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    def loss(log_factor: float) -> float:
        scaled = np.exp(log_factor) * outputs
        if several:
            return float((np.logaddexp(0, scaled) - labels * scaled).mean())
        return float((logsumexp(scaled, axis=1) - scaled[np.arange(len(scaled)), labels]).mean())

    found: Any = minimize_scalar(loss, bounds=(-6.0, 6.0), method="bounded")
    return float(np.exp(found.x))
