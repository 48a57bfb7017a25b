"""What is done to features before a head sees them, fitted on training rows alone: standardised columns, principal components."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from transfuse.core.predictors import Scaled
from transfuse.errors import DataError
from transfuse.probes._linear import layer_of

_BATCH = 4096  # rows prepared at once


@dataclass
class Preparation:
    """x -> ((x - mean) / std - centre) @ components.T

    Attributes:
        mean, std: float64 [width]; 0 and 1 where columns stay as they are.
        components: float64 [kept, width], principal directions, or None.
        centre: float64 [width], of the standardised columns.
        explained: the share of the variance that the components keep; None without them.
    """

    mean: np.ndarray
    std: np.ndarray
    components: np.ndarray | None = None
    centre: np.ndarray | None = None
    explained: float | None = None

    @property
    def width(self) -> int:
        """Columns that a head sees."""
        return len(self.mean) if self.components is None else len(self.components)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """float32 [n, width], as the shipped network computes them."""
        layers = nn.Sequential(*self.layers())
        with torch.no_grad():
            parts = [layers(part) for part in torch.from_numpy(features).split(_BATCH)]
        return torch.cat(parts).numpy() if parts else np.empty((0, self.width), np.float32)

    def layers(self) -> list[nn.Module]:
        """The same as modules."""
        scaled = Scaled(len(self.mean))
        scaled.mean.copy_(torch.from_numpy(self.mean))
        scaled.std.copy_(torch.from_numpy(self.std))
        if self.components is None or self.centre is None:
            return [scaled]
        return [scaled, layer_of(self.components, -self.components @ self.centre)]

    def folded(self, layer: nn.Linear) -> nn.Linear:
        """One linear layer that does the preparation and then `layer`, computed in float64."""
        weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
        if self.components is not None and self.centre is not None:
            weight = weight @ self.components
            bias = bias - weight @ self.centre
        weight = weight / self.std
        return layer_of(weight, bias - weight @ self.mean)


def fit_preparation(features: np.ndarray, standardise: bool, components: int | float | None, seed: int) -> Preparation:
    """Fits on these rows.

    Args:
        features: float32 [rows, width].
        standardise: whether columns get mean 0 and (population) standard deviation 1; one that doesn't vary becomes 0.
        components: how many principal directions to keep, or, below 1, how much of the variance; None: no such step.
        seed: of the solver for wide features.

    Raises:
        DataError: more components than rows or columns.
    """
    values = features.astype(np.float64)
    width = values.shape[1]
    mean, std = np.zeros(width), np.ones(width)
    if standardise:
        mean, std = values.mean(0), values.std(0)
        std = np.where(std > 1e-9 * (np.abs(mean) + std), std, 1.0)
    if components is None:
        return Preparation(mean, std)
    if components >= 1 and components > min(values.shape):
        what = f"{components} components of {values.shape[0]} rows with {width} columns"
        raise DataError(what, where="components", fix=f"{min(values.shape)} is the most; or give a share of the variance, such as 0.95")
    from sklearn.decomposition import PCA

    found = PCA(components if components < 1 else int(components), random_state=seed % 2**32).fit((values - mean) / std)
    return Preparation(mean, std, found.components_, found.mean_, float(found.explained_variance_ratio_.sum()))
