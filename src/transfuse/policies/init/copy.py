"""Begins with all of another network's tensors that fit: the same name and shape, or one that can be resized."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.taps import MOST_PREFIX_TOKENS
from transfuse.policies.init._scene import Moved, Row, Scene, written

CARD = Card(title="Copied weights", level="parameters", tasks=("classification", "multilabel", "regression"))


def resized_positions(value: Float[Tensor, "1 tokens width"], tokens: int) -> Float[Tensor, "1 new width"] | None:
    """Position embeddings of a square grid of patches for another number of them, bicubic with antialiasing, as timm resizes them.

    Class and register tokens in front stay as they are. None where the numbers are no squares behind the same number of such tokens.
    """
    for prefix in range(MOST_PREFIX_TOKENS + 1):
        old, new = (math.isqrt(max(0, count - prefix)) for count in (value.shape[1], tokens))
        if old > 0 and new > 0 and old**2 + prefix == value.shape[1] and new**2 + prefix == tokens:
            grid = value[:, prefix:].reshape(1, old, old, -1).permute(0, 3, 1, 2).float()
            grid = F.interpolate(grid, size=(new, new), mode="bicubic", antialias=True)
            return torch.cat([value[:, :prefix], grid.permute(0, 2, 3, 1).flatten(1, 2).to(value.dtype)], 1)
    return None


def resized_channels(weight: Float[Tensor, "out old height width"], channels: int) -> Float[Tensor, "out new height width"]:
    """A first convolution's weight for another number of input channels.

    To one channel: the sum, which gives on a grey picture what the weight gave on three equal channels. Else the channels in turn, times
    old / new, which keeps the sum over channels for equal ones.
    """
    if channels == 1:
        return weight.sum(1, keepdim=True)
    old = weight.shape[1]
    return weight[:, torch.arange(channels) % old] * (old / channels)


class Copy:
    """theta_target = theta_source for every tensor of the same name and shape.

    Position embeddings are interpolated to another number of patches, the first convolution is fitted to another number of channels;
    anything else of another shape keeps its fresh weights, and is told.
    """

    def __call__(self, source: nn.Module, target: nn.Module, scene: Scene) -> Moved:
        other = source.state_dict()
        first = next((f"{path}.weight" for path, module in target.named_modules() if isinstance(module, nn.Conv2d)), "")
        values, rows = {}, []
        for name, value in target.state_dict().items():
            found = other.get(name)
            new, why = (None, "the source has no such tensor") if found is None else _fitted(found, value, name == first)
            shapes = (tuple(value.shape), () if found is None else tuple(found.shape))
            if new is None or found is None:
                rows.append(Row(name, "left", "", *shapes, why))
                continue
            values[name] = new
            rows.append(Row(name, "copied" if new is found else "resized", name, *shapes, why))
        return written(target, values, rows, set(values), source)


def _fitted(found: Tensor, value: Tensor, first: bool) -> tuple[Tensor | None, str]:
    """The source's tensor in the target's shape, if it can be had, and how or why not."""
    if found.shape == value.shape:
        return found, ""
    if first and found.ndim == value.ndim and (found.shape[0], found.shape[2:]) == (value.shape[0], value.shape[2:]):
        return resized_channels(found, value.shape[1]), f"{found.shape[1]} input channels to {value.shape[1]}"
    if found.ndim == 3 and value.ndim == 3 and found.shape[0] == value.shape[0] == 1 and found.shape[2] == value.shape[2]:
        resized = resized_positions(found, value.shape[1])
        if resized is not None:
            return resized, "positions interpolated"
    return None, "another shape"
