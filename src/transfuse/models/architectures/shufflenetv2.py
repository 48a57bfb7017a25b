"""ShuffleNetV2 (Ma et al. 2018) for 32x32 pictures, as in the distillation literature (RepDistiller)."""

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Gt, Len
from torch import Tensor, nn

from transfuse.models.architectures import Variant
from transfuse.models.architectures._layers import scaled

Widths = Annotated[tuple[Annotated[int, Gt(0)], ...], Len(4, 4)]
BLOCKS = (3, 7, 3)


def _shuffle(hidden: Tensor) -> Tensor:
    """Interleaves the two halves of the channels."""
    batch, channels, height, width = hidden.shape
    return hidden.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)


class SplitBlock(nn.Module):
    """Half of the channels pass, half are convolved; then the halves are interleaved."""

    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, hidden: Tensor) -> Tensor:
        passed, convolved = hidden.chunk(2, 1)
        convolved = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(convolved)))))
        convolved = F.relu(self.bn3(self.conv3(convolved)))
        return _shuffle(torch.cat([passed, convolved], 1))


class DownBlock(nn.Module):
    """Both branches halve the side; together they have the new number of channels."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        half = outputs // 2
        self.conv1 = nn.Conv2d(inputs, inputs, 3, 2, 1, groups=inputs, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv2 = nn.Conv2d(inputs, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(inputs, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, 2, 1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, hidden: Tensor) -> Tensor:
        left = F.relu(self.bn2(self.conv2(self.bn1(self.conv1(hidden)))))
        right = self.bn4(self.conv4(F.relu(self.bn3(self.conv3(hidden)))))
        right = F.relu(self.bn5(self.conv5(right)))
        return _shuffle(torch.cat([left, right], 1))


class CifarShuffleNetV2(nn.Module):
    """1x1 stem of 24 channels, three stages that each halve the side, 1x1 convolution, the mean over positions, a linear layer.

    Module names and initialisation (torch's defaults) as in kuangliu/pytorch-cifar and HobbitLong/RepDistiller.

    Args:
        outputs: classes or targets.
        input_shape: (channels, height, width).
        widths: channels of the three stages (made even) and of the last convolution.
        width: multiplies the widths.
    """

    aliases = (("fc.", "linear."),)

    def __init__(
        self,
        outputs: int,
        input_shape: tuple[int, ...],
        widths: Widths = (116, 232, 464, 1024),
        width: Annotated[float, Gt(0)] = 1.0,
    ):
        super().__init__()
        *stages, last = scaled(widths, width)
        channels = 24
        self.conv1 = nn.Conv2d(input_shape[0], channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        layers = []
        for stage, count in zip(stages, BLOCKS, strict=True):
            after = stage + stage % 2
            layers.append(nn.Sequential(DownBlock(channels, after), *(SplitBlock(after) for _ in range(count))))
            channels = after
        self.layer1, self.layer2, self.layer3 = layers
        self.conv2 = nn.Conv2d(channels, last, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(last)
        self.linear = nn.Linear(last, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.bn1(self.conv1(inputs)))
        hidden = self.layer3(self.layer2(self.layer1(hidden)))
        hidden = F.relu(self.bn2(self.conv2(hidden)))
        return self.linear(hidden.mean((2, 3)))


VARIANTS = {"shufflenetv2": Variant(CifarShuffleNetV2, "ShuffleNetV2 1x for 32x32 pictures", smallest=8)}
