"""What is fitted on the training part alone: the normalisation of inputs and the scaling of regression targets."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from transfuse.core.preprocess import Preprocess
from transfuse.core.types import Modality, Samples, Target
from transfuse.data.samples import raw_dtype, raw_shape
from transfuse.data.splits import some

MOST_PICTURES = 5000  # a channel's mean over 5,000 pictures is known to well under a grey level
_CHUNK = {"image": 256, "columns": 65536, "text": 65536}  # rows in float64 at a time
_PIXEL_RANGE = 255.0


def fit_preprocess(samples: Samples, modality: Modality, seed: int) -> Preprocess:
    """Mean and (population) standard deviation per channel or column; what doesn't vary keeps std 1, so that it becomes 0.

    Pictures are scaled by 1/255 when they are 8-bit or floats in 0..255; columns and other floats aren't.
    """
    rows = some(len(samples), MOST_PICTURES, seed, "statistics") if modality == "image" else np.arange(len(samples))
    shape, whole = raw_shape(samples), raw_dtype(samples) == torch.uint8
    moments = _Histogram(shape[0]) if whole else _Moments()
    for start in range(0, len(rows), _CHUNK[modality]):
        moments.add(samples.raw(rows[start : start + _CHUNK[modality]].tolist()))
    if modality != "image":
        return Preprocess(mean=moments.mean(1.0), std=moments.std(1.0))
    scale = 1 / _PIXEL_RANGE if whole or (moments.low >= 0 and 1 < moments.high <= _PIXEL_RANGE) else 1.0
    return Preprocess(
        size=(shape[1], shape[2]), channels=shape[0], mean=moments.mean(scale), std=moments.std(scale), scale=scale, resize="short_side"
    )


class _Histogram:
    """Counts of the 256 grey levels per channel: exact, and much faster than sums in float64."""

    low, high = 0.0, _PIXEL_RANGE

    def __init__(self, channels: int):
        self.counts = torch.zeros(channels, 256, dtype=torch.float64)

    def add(self, raw: Tensor) -> None:
        for channel in range(raw.shape[1]):
            self.counts[channel] += torch.bincount(raw[:, channel].reshape(-1), minlength=256)

    def _moment(self, power: int) -> Tensor:
        levels = torch.arange(256, dtype=torch.float64).pow(power)
        return self.counts @ levels / self.counts.sum(1)

    def mean(self, scale: float) -> tuple[float, ...]:
        return tuple((self._moment(1) * scale).tolist())

    def std(self, scale: float) -> tuple[float, ...]:
        variance = self._moment(2) - self._moment(1).square()
        varies = (self.counts > 0).sum(1) > 1
        return tuple(torch.where(varies, variance.clamp(min=0).sqrt() * scale, torch.ones_like(variance)).tolist())


class _Moments:
    """Running sums about the first chunk's mean, in float64: no cancellation where the mean is large against the spread."""

    def __init__(self):
        self.count = 0
        self.low, self.high = float("inf"), -float("inf")
        self.shift = self.first = self.second = torch.zeros(())

    def add(self, raw: Tensor) -> None:
        values = raw.double().transpose(0, 1).reshape(raw.shape[1], -1)
        if self.count == 0:
            self.shift = values.mean(1)
            self.first, self.second = torch.zeros_like(self.shift), torch.zeros_like(self.shift)
        centred = values - self.shift[:, None]
        self.count += values.shape[1]
        self.first = self.first + centred.sum(1)
        self.second = self.second + centred.square().sum(1)
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    def mean(self, scale: float) -> tuple[float, ...]:
        return tuple(((self.shift + self.first / self.count) * scale).tolist())

    def std(self, scale: float) -> tuple[float, ...]:
        variance = (self.second / self.count - (self.first / self.count).square()).clamp(min=0)
        std = variance.sqrt()
        varies = std > 1e-9 * (self.shift.abs() + std)  # a constant leaves only what float64 rounds
        return tuple(torch.where(varies, std * scale, torch.ones_like(std)).tolist())


def fit_target(labels: Tensor, names: list[str]) -> Target:
    """Mean and standard deviation per target over the labelled training samples [n, targets]; a constant target has std 1."""
    values = labels[~labels.isnan().any(1)].double()
    std = values.std(0, correction=0)
    std = torch.where(std > 0, std, torch.ones_like(std))
    return Target(names=names, mean=values.mean(0).tolist(), std=std.tolist())
