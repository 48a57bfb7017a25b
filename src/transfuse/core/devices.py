"""From the host to a GPU without waiting for what the GPU is doing."""

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
    return tensor.pin_memory().to(target, non_blocking=True)
