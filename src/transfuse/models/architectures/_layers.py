"""Layers that several families share: TensorFlow's padding, and the initialisations of the original repositories."""

import math
from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Padding = Literal["same_tf", "symmetric"]


class SamePadConv2d(nn.Conv2d):
    """A convolution with TensorFlow's 'SAME' padding: ceil(n / stride) outputs, the odd pixel of padding at the bottom and right.

    At stride 1 it equals symmetric padding; at stride 2 on an even side it does not, so weights trained there need it.
    """

    def forward(self, input: Tensor) -> Tensor:  # the parent's name
        padding: list[int] = []
        for axis in (1, 0):  # F.pad takes the last axis first
            side, kernel, stride = input.shape[2 + axis], self.kernel_size[axis], self.stride[axis]
            total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
            padding += [total // 2, total - total // 2]
        return F.conv2d(F.pad(input, padding), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def convolution(channels: tuple[int, int], kernel: int, stride: int, padding: Padding, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    """A square convolution from channels[0] to channels[1] that keeps the size up to its stride."""
    if padding == "same_tf":
        return SamePadConv2d(*channels, kernel, stride, groups=groups, bias=bias)
    return nn.Conv2d(*channels, kernel, stride, kernel // 2, groups=groups, bias=bias)


def he_init(network: nn.Module, mode: Literal["fan_in", "fan_out"], linear: Literal["he", "default"] | float = "default") -> None:
    """He et al. 2015: convolutions from N(0, 2 / fan), BatchNorm at (1, 0).

    Args:
        network: changed in place.
        mode: which fan of the convolutions.
        linear: linear layers also by He ("he"), as torch does ("default"), or from N(0, linear^2) with zero biases.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d, nn.GroupNorm)):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and linear != "default":
            if linear == "he":
                nn.init.kaiming_normal_(module.weight)
            else:
                nn.init.normal_(module.weight, 0, float(linear))
                nn.init.zeros_(module.bias)


def scaled(widths: Sequence[int], width: float) -> list[int]:
    """Channel counts times a multiplier, each at least 1."""
    return [max(1, round(channels * width)) for channels in widths]
