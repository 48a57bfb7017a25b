"""The CIFAR ResNets of He et al. 2016 (section 4.2), with both forms of shortcut, and their wider x4 forms."""

from typing import Annotated, Literal

import torch.nn.functional as F
from annotated_types import Gt, Len
from torch import Tensor, nn

from transfuse.errors import ModelError
from transfuse.models.architectures import Variant
from transfuse.models.architectures._layers import he_init, scaled

Widths = Annotated[tuple[Annotated[int, Gt(0)], ...], Len(4, 4)]


class PadShortcut(nn.Module):
    """Option A: every stride-th position, and zeros for the new channels, half of them in front; no parameters."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        if outputs < inputs:
            raise ModelError(f"a shortcut of form A can't go from {inputs} to {outputs} channels", fix="options: {shortcut: B}")
        self.front, self.back, self.stride = (outputs - inputs) // 2, outputs - inputs - (outputs - inputs) // 2, stride

    def forward(self, hidden: Tensor) -> Tensor:
        return F.pad(hidden[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.front, self.back))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Literal["A", "B"]):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Sequential()
        if stride != 1 or inputs != outputs:
            if shortcut == "A":
                self.shortcut = PadShortcut(inputs, outputs, stride)
            else:
                self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, hidden: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(hidden)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(hidden))


class CifarResNet(nn.Module):
    """Stem, three stages of (depth - 2) / 6 blocks, the mean over positions, a linear layer.

    Module names are those of akamaster/pytorch_resnet_cifar10, initialisation too (N(0, 2 / fan_in), linear layer included); the x4
    forms are initialised as in HobbitLong/RepDistiller (N(0, 2 / fan_out), torch's default for the linear layer).

    Args:
        outputs: classes or targets.
        input_shape: (channels, height, width).
        depth: 6 n + 2 layers.
        widths: channels of the stem and of the three stages.
        width: multiplies the widths.
        shortcut: A pads with zeros (the paper's CIFAR networks), B convolves with 1x1 kernels.
        init: which fan the He initialisation takes.
    """

    aliases = ((".downsample.", ".shortcut."), ("fc.", "linear."))  # names of the same layers in distiller and RepDistiller

    def __init__(
        self,
        outputs: int,
        input_shape: tuple[int, ...],
        depth: int,
        widths: Widths = (16, 16, 32, 64),
        width: Annotated[float, Gt(0)] = 1.0,
        shortcut: Literal["A", "B"] = "A",
        init: Literal["fan_in", "fan_out"] = "fan_in",
    ):
        super().__init__()
        stem, *stages = scaled(widths, width)
        self.conv1 = nn.Conv2d(input_shape[0], stem, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        blocks = (depth - 2) // 6
        self.layer1 = self._stage((stem, stages[0]), blocks, 1, shortcut)
        self.layer2 = self._stage((stages[0], stages[1]), blocks, 2, shortcut)
        self.layer3 = self._stage((stages[1], stages[2]), blocks, 2, shortcut)
        self.linear = nn.Linear(stages[2], outputs)
        he_init(self, init, linear="he" if init == "fan_in" else "default")

    @staticmethod
    def _stage(channels: tuple[int, int], blocks: int, stride: int, shortcut: Literal["A", "B"]) -> nn.Sequential:
        inputs, outputs = channels
        first = BasicBlock(inputs, outputs, stride, shortcut)
        return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1, shortcut) for _ in range(blocks - 1)))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.bn1(self.conv1(inputs)))
        hidden = self.layer3(self.layer2(self.layer1(hidden)))
        return self.linear(hidden.mean((2, 3)))


def _wide(depth: int) -> Variant:
    defaults = {"widths": (32, 64, 128, 256), "shortcut": "B", "init": "fan_out"}
    return Variant(CifarResNet, f"CIFAR ResNet-{depth}, four times as wide (RepDistiller)", {"depth": depth}, defaults)


VARIANTS = {
    **{f"resnet{depth}": Variant(CifarResNet, f"CIFAR ResNet-{depth}", {"depth": depth}) for depth in (8, 14, 20, 32, 44, 56, 110)},
    "resnet8x4": _wide(8),
    "resnet32x4": _wide(32),
}
