"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Ema:
    """average <- d average + (1 - d) weights after each step, with d = min(decay, (1 + step) / (10 + step)).

    The ramp lets the average forget the initial weights early on. Buffers (BatchNorm's statistics, which are running averages
    themselves) are copied.

    Args:
        module: the network that is averaged.
        decay: 0 to 1; 0.999 remembers about 1,000 steps.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.module = copy.deepcopy(module).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Takes in the weights after `step` steps (counted from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        average_all = get_ema_multi_avg_fn(decay)
        average_all(list(self.module.parameters()), list(module.parameters()), step)
        for average, value in zip(self.module.buffers(), module.buffers(), strict=True):
            average.copy_(value)
