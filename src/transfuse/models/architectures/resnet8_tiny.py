"""The ResNet-8 of the MLPerf Tiny image benchmark (mlcommons/tiny), a Keras network: other padding, biases and shortcuts than CIFAR's."""

from typing import Annotated

import torch.nn.functional as F
from annotated_types import Gt, Len
from torch import Tensor, nn

from transfuse.models.architectures import Variant
from transfuse.models.architectures._layers import Padding, convolution, he_init, scaled

Widths = Annotated[tuple[Annotated[int, Gt(0)], ...], Len(3, 3)]
EPSILON = 1e-3  # Keras's BatchNorm


class TinyBlock(nn.Module):
    """Two 3x3 convolutions with biases; the 1x1 shortcut has a bias and no norm."""

    def __init__(self, inputs: int, outputs: int, stride: int, padding: Padding):
        super().__init__()
        self.conv1 = convolution((inputs, outputs), 3, stride, padding, bias=True)
        self.bn1 = nn.BatchNorm2d(outputs, eps=EPSILON)
        self.conv2 = convolution((outputs, outputs), 3, 1, padding, bias=True)
        self.bn2 = nn.BatchNorm2d(outputs, eps=EPSILON)
        self.shortcut = convolution((inputs, outputs), 1, stride, padding, bias=True) if stride != 1 or inputs != outputs else None

    def forward(self, hidden: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(hidden)))))
        return F.relu(out + (hidden if self.shortcut is None else self.shortcut(hidden)))


class TinyResNet8(nn.Module):
    """Stem, three blocks (16, 32, 64 channels), the mean over positions, a linear layer; N(0, 2 / fan_in) throughout, as in Keras.

    Args:
        outputs: classes or targets.
        input_shape: (channels, height, width).
        widths: channels of the three blocks; the stem has the first.
        width: multiplies the widths.
        padding: same_tf as in the benchmark; symmetric is torch's.
    """

    def __init__(
        self,
        outputs: int,
        input_shape: tuple[int, ...],
        widths: Widths = (16, 32, 64),
        width: Annotated[float, Gt(0)] = 1.0,
        padding: Padding = "same_tf",
    ):
        super().__init__()
        first, second, third = scaled(widths, width)
        self.conv1 = convolution((input_shape[0], first), 3, 1, padding, bias=True)
        self.bn1 = nn.BatchNorm2d(first, eps=EPSILON)
        self.layer1 = TinyBlock(first, first, 1, padding)
        self.layer2 = TinyBlock(first, second, 2, padding)
        self.layer3 = TinyBlock(second, third, 2, padding)
        self.linear = nn.Linear(third, outputs)
        he_init(self, "fan_in", linear="he")
        nn.init.zeros_(self.linear.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.bn1(self.conv1(inputs)))
        hidden = self.layer3(self.layer2(self.layer1(hidden)))
        return self.linear(hidden.mean((2, 3)))


VARIANTS = {"resnet8_tiny": Variant(TinyResNet8, "ResNet-8 of MLPerf Tiny, with TensorFlow's padding")}
