"""MobileNetV2 (Sandler et al. 2018) for 32x32 pictures, as in the distillation literature (RepDistiller)."""

from typing import Annotated

from annotated_types import Ge, Gt
from torch import Tensor, nn

from transfuse.models.architectures import Variant
from transfuse.models.architectures._layers import he_init

# channels, blocks, stride of the first block; the first stage doesn't expand
STAGES = ((16, 1, 1), (24, 2, 1), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 projection; plain ReLU, as RepDistiller has it."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int):
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.conv(hidden) if self.residual else self.conv(hidden)


class CifarMobileNetV2(nn.Module):
    """Stem of stride 2, seven stages of inverted residuals (three more halvings), the mean over positions, a linear layer.

    Module names and initialisation as in HobbitLong/RepDistiller, whose `MobileNetV2` is expansion 6 at width 0.5.

    Args:
        outputs: classes or targets.
        input_shape: (channels, height, width).
        width: multiplies all channels but the last 1280, which only grow.
        expansion: of the inverted residuals.
    """

    def __init__(
        self,
        outputs: int,
        input_shape: tuple[int, ...],
        width: Annotated[float, Gt(0)] = 0.5,
        expansion: Annotated[int, Ge(1)] = 6,
    ):
        super().__init__()
        channels = max(1, int(32 * width))
        self.conv1 = nn.Sequential(
            nn.Conv2d(input_shape[0], channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )
        self.blocks = nn.ModuleList()
        for number, (stage, count, stride) in enumerate(STAGES):
            after = max(1, int(stage * width))
            factor = expansion if number else 1
            blocks = [InvertedResidual(channels, after, stride, factor)]
            blocks += [InvertedResidual(after, after, 1, factor) for _ in range(count - 1)]
            self.blocks.append(nn.Sequential(*blocks))
            channels = after
        last = int(1280 * width) if width > 1 else 1280
        self.conv2 = nn.Sequential(nn.Conv2d(channels, last, 1, bias=False), nn.BatchNorm2d(last), nn.ReLU(inplace=True))
        self.classifier = nn.Sequential(nn.Linear(last, outputs))
        he_init(self, "fan_out", linear=0.01)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.conv1(inputs)
        for block in self.blocks:
            hidden = block(hidden)
        return self.classifier(self.conv2(hidden).mean((2, 3)))


VARIANTS = {"mobilenetv2": Variant(CifarMobileNetV2, "MobileNetV2 for 32x32 pictures, width 0.5 unless said otherwise", smallest=8)}
