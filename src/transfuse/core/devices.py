"""From the host to a GPU without waiting for what the GPU is doing."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on a device.

    A copy from ordinary host memory to a GPU waits until all that was asked of the GPU before is done, so that the two take turns. One from
    page-locked memory is queued behind it.
    """
    target = torch.device(device)
    if target.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(target)
    return tensor.contiguous().pin_memory().to(target, non_blocking=True)


def constant(values: tuple[Any, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """`torch.tensor(values)` on a device; who changes it has to copy it first.

    A GPU keeps what it was sent once: the same few numbers are asked for in every step, and each time it would be waited for.
    """
    return _kept(values, device, dtype) if device.type == "cuda" else torch.tensor(values, device=device, dtype=dtype)


@lru_cache(maxsize=256)
def _kept(values: tuple[Any, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # what is made inside could not be used outside
        return torch.tensor(values, device=device, dtype=dtype)
