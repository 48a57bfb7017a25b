"""MobileNet V1 and V2 as TensorFlow trained them: 'SAME' padding, BatchNorm eps 1e-3, or BatchNorm folded into convolution biases."""

from typing import Annotated, Literal

from annotated_types import Gt
from torch import Tensor, nn

from transfuse.models.architectures import Variant
from transfuse.models.architectures._layers import Padding, convolution, he_init

Norm = Literal["batch", "folded"]
EPSILON = 1e-3

V1_WIDTHS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
V1_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
V2_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class _Builder:
    """Makes convolutions of one style: which padding, and a BatchNorm or a bias after each."""

    def __init__(self, norm: Norm, padding: Padding):
        self.norm: Norm = norm
        self.padding: Padding = padding

    def layers(self, channels: tuple[int, int], kernel: int = 1, stride: int = 1, depthwise: bool = False) -> list[nn.Module]:
        folded = self.norm == "folded"
        conv = convolution(channels, kernel, stride, self.padding, groups=channels[0] if depthwise else 1, bias=folded)
        return [conv] if folded else [conv, nn.BatchNorm2d(channels[1], eps=EPSILON)]

    def active(self, channels: tuple[int, int], kernel: int = 1, stride: int = 1, depthwise: bool = False) -> nn.Sequential:
        return nn.Sequential(*self.layers(channels, kernel, stride, depthwise), nn.ReLU6(inplace=True))


class MobileNetV1(nn.Module):
    """Stem and 13 pairs of a depthwise and a 1x1 convolution (Howard et al. 2017), the mean over positions, a linear layer.

    Args:
        outputs: classes or targets.
        input_shape: (channels, height, width).
        width: multiplies all channels (0.25, 0.5, 0.75 and 1 in the paper).
        norm: batch, or folded: biases in BatchNorm's place, as exported for inference.
        padding: same_tf as trained by TensorFlow; symmetric is torch's.
    """

    def __init__(
        self,
        outputs: int,
        input_shape: tuple[int, ...],
        width: Annotated[float, Gt(0)] = 1.0,
        norm: Norm = "batch",
        padding: Padding = "same_tf",
    ):
        super().__init__()
        make = _Builder(norm, padding)
        channels = max(1, int(32 * width))
        self.stem = make.active((input_shape[0], channels), 3, 2)
        self.blocks = nn.ModuleList()
        for stage, stride in zip(V1_WIDTHS, V1_STRIDES, strict=True):
            after = max(1, int(stage * width))
            block = nn.Sequential()
            block.add_module("depthwise", make.active((channels, channels), 3, stride, depthwise=True))
            block.add_module("pointwise", make.active((channels, after)))
            self.blocks.append(block)
            channels = after
        self.classifier = nn.Linear(channels, outputs)
        he_init(self, "fan_out", linear=0.01)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.stem(inputs)
        for block in self.blocks:
            hidden = block(hidden)
        return self.classifier(hidden.mean((2, 3)))


class InvertedResidual(nn.Module):
    """1x1 expansion (where there is one), 3x3 depthwise, 1x1 projection without activation; numbered as torchvision's."""

    def __init__(self, channels: tuple[int, int], stride: int, expansion: int, make: _Builder):
        super().__init__()
        inputs, outputs = channels
        hidden = inputs * expansion
        layers: list[nn.Module] = [make.active((inputs, hidden))] if expansion != 1 else []
        layers += [make.active((hidden, hidden), 3, stride, depthwise=True), *make.layers((hidden, outputs))]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.conv(hidden) if self.residual else self.conv(hidden)


class MobileNetV2(nn.Module):
    """Stem, 17 inverted residuals (Sandler et al. 2018), 1x1 convolution, the mean over positions, a linear layer.

    Module names are torchvision's. With `padding: symmetric` it differs from torchvision's only in BatchNorm's eps.

    Args:
        outputs: classes or targets.
        input_shape: (channels, height, width).
        width: multiplies all channels (made divisible by 8) but the last 1280, which only grow.
        norm: batch, or folded: biases in BatchNorm's place, as exported for inference.
        padding: same_tf as trained by TensorFlow; symmetric is torch's.
    """

    def __init__(
        self,
        outputs: int,
        input_shape: tuple[int, ...],
        width: Annotated[float, Gt(0)] = 1.0,
        norm: Norm = "batch",
        padding: Padding = "same_tf",
    ):
        super().__init__()
        make = _Builder(norm, padding)
        channels = _divisible(32 * width)
        features: list[nn.Module] = [make.active((input_shape[0], channels), 3, 2)]
        for expansion, stage, count, first_stride in V2_STAGES:
            after = _divisible(stage * width)
            for number in range(count):
                features.append(InvertedResidual((channels, after), first_stride if number == 0 else 1, expansion, make))
                channels = after
        last = _divisible(1280 * max(1.0, width))
        features.append(make.active((channels, last)))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, outputs))
        he_init(self, "fan_out", linear=0.01)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classifier(self.features(inputs).mean((2, 3)))


def _divisible(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of 8 that is not more than a tenth smaller."""
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * channels else nearest


VARIANTS = {
    "mobilenetv1": Variant(MobileNetV1, "MobileNet V1 with TensorFlow's padding", input_shape=(3, 224, 224), smallest=32),
    "mobilenetv2_tf": Variant(MobileNetV2, "MobileNet V2 with TensorFlow's padding", input_shape=(3, 224, 224), smallest=32),
}
