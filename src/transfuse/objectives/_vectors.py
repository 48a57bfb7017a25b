"""One vector per sample out of any tapped feature: what relations, spectral and domain objectives read."""

import torch
from jaxtyping import Float
from torch import Tensor

from transfuse.core.numerics import at_least_fp32
from transfuse.core.types import Signals


def vectors(feature: Float[Tensor, "batch *inner"]) -> Float[Tensor, "batch width"]:
    """One vector per sample, in at least fp32.

    Maps [batch, channels, height, width] are averaged over space, tokens [batch, tokens, width] over tokens; [batch, width] stays.

    Raises:
        ValueError: the feature has another number of dimensions.
    """
    feature = at_least_fp32(feature)
    if feature.ndim == 4:
        return feature.mean((2, 3))
    if feature.ndim == 3:
        return feature.mean(1)
    if feature.ndim != 2:
        raise ValueError(f"a feature of shape {list(feature.shape)} has no vector per sample; tap a map, tokens or a vector")
    return feature


def unit(values: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
    """Every last-axis vector divided by its length; a zero vector stays zero and has a gradient of ordinary size."""
    length = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    return values / torch.where(length > 0, length, 1.0)


def last_tap(signals: Signals, whose: str) -> Tensor:
    """The deepest tapped feature: the last in the recipe's order, and of those that `auto` finds.

    Raises:
        ValueError: nothing is tapped.
    """
    if not signals.features:
        raise ValueError(f"no feature of the {whose} is tapped; name one with {whose}_tap, usually its last feature")
    return list(signals.features.values())[-1]
