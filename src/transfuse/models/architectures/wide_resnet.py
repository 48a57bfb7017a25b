"""Wide ResNets for CIFAR (Zagoruyko and Komodakis 2016), with blocks that normalise first."""

from typing import Annotated

import torch.nn.functional as F
from annotated_types import Ge, Gt, Len, Lt
from torch import Tensor, nn

from transfuse.models.architectures import Variant
from transfuse.models.architectures._layers import he_init, scaled

Widths = Annotated[tuple[Annotated[int, Gt(0)], ...], Len(4, 4)]


class PreActivationBlock(nn.Module):
    """Norm, ReLU, 3x3 convolution, twice; where the shape changes, the 1x1 shortcut takes the normalised input."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs or stride != 1 else None

    def forward(self, hidden: Tensor) -> Tensor:
        normalised = F.relu(self.bn1(hidden))
        out = self.conv2(self.dropout(F.relu(self.bn2(self.conv1(normalised)))))
        return out + (hidden if self.convShortcut is None else self.convShortcut(normalised))


class Stage(nn.Module):
    """Blocks of one resolution; `layer` is the name that they have in the original repositories."""

    def __init__(self, channels: tuple[int, int], blocks: int, stride: int, dropout: float):
        super().__init__()
        inputs, outputs = channels
        first = PreActivationBlock(inputs, outputs, stride, dropout)
        self.layer = nn.Sequential(first, *(PreActivationBlock(outputs, outputs, 1, dropout) for _ in range(blocks - 1)))

    def forward(self, hidden: Tensor) -> Tensor:
        return self.layer(hidden)


class WideResNet(nn.Module):
    """Stem, three stages of (depth - 4) / 6 blocks, norm, the mean over positions, a linear layer.

    Module names and initialisation (N(0, 2 / fan_out)) as in xternalz/WideResNet-pytorch and HobbitLong/RepDistiller.

    Args:
        outputs: classes or targets.
        input_shape: (channels, height, width).
        depth: 6 n + 4 layers.
        widths: channels of the stem and of the three stages.
        width: multiplies the widths.
        dropout: probability of dropping a channel's position inside a block in training.
    """

    def __init__(
        self,
        outputs: int,
        input_shape: tuple[int, ...],
        depth: int,
        widths: Widths = (16, 16, 32, 64),
        width: Annotated[float, Gt(0)] = 1.0,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
    ):
        super().__init__()
        stem, *stages = scaled(widths, width)
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(input_shape[0], stem, 3, 1, 1, bias=False)
        self.block1 = Stage((stem, stages[0]), blocks, 1, dropout)
        self.block2 = Stage((stages[0], stages[1]), blocks, 2, dropout)
        self.block3 = Stage((stages[1], stages[2]), blocks, 2, dropout)
        self.bn1 = nn.BatchNorm2d(stages[2])
        self.fc = nn.Linear(stages[2], outputs)
        he_init(self, "fan_out")
        nn.init.zeros_(self.fc.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.block3(self.block2(self.block1(self.conv1(inputs))))
        return self.fc(F.relu(self.bn1(hidden)).mean((2, 3)))


def _variant(depth: int, factor: int) -> Variant:
    widths = (16, 16 * factor, 32 * factor, 64 * factor)
    return Variant(WideResNet, f"Wide ResNet-{depth}-{factor} for CIFAR", {"depth": depth}, {"widths": widths})


VARIANTS = {f"wrn_{depth}_{factor}": _variant(depth, factor) for depth in (16, 40) for factor in (1, 2)}
