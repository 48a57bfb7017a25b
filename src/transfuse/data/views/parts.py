"""Large pictures a few at a time, so that what lies between two operations stays in the processor's cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

VALUES = 600_000  # in a part: four RGB pictures of 224x224; more are slower again, as are fewer


def in_parts(change: Callable[..., Tensor], pictures: Tensor, *per_sample: Tensor) -> Tensor:
    """change(pictures, *per_sample), part by part on a CPU and in one go elsewhere; the same bits, as no sample looks at another.

    Args:
        change: a function of pictures and further tensors with one row per sample.
        pictures: [batch, channels, height, width].
        per_sample: [batch, ...] each.
    """
    size = max(1, VALUES // max(1, pictures[:1].numel()))
    if pictures.device.type != "cpu" or len(pictures) <= size:
        return change(pictures, *per_sample)
    parts = zip(*(values.split(size) for values in (pictures, *per_sample)), strict=True)
    return torch.cat([change(*part) for part in parts])
