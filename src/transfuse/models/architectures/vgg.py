"""VGG with BatchNorm for CIFAR, as in the distillation literature (RepDistiller)."""

from typing import Annotated

import torch.nn.functional as F
from annotated_types import Gt, Len
from torch import Tensor, nn

from transfuse.models.architectures import Variant
from transfuse.models.architectures._layers import he_init, scaled

Widths = Annotated[tuple[Annotated[int, Gt(0)], ...], Len(5, 5)]


class CifarVGG(nn.Module):
    """Five stages of 3x3 convolutions with biases and BatchNorm, the mean over positions, one linear layer.

    Module names and initialisation as in HobbitLong/RepDistiller: convolutions from N(0, 2 / fan_out), the linear layer from
    N(0, 0.01^2). The ReLU after a stage's last convolution is applied by the next stage, so that a tap on `block3` reads the
    pre-activation. A fourth pooling follows from 64 pixels on.

    Args:
        outputs: classes or targets.
        input_shape: (channels, height, width).
        layers: convolutions per stage.
        widths: channels per stage.
        width: multiplies the widths.
    """

    def __init__(
        self,
        outputs: int,
        input_shape: tuple[int, ...],
        layers: int,
        widths: Widths = (64, 128, 256, 512, 512),
        width: Annotated[float, Gt(0)] = 1.0,
    ):
        super().__init__()
        stages = scaled(widths, width)
        inputs = [input_shape[0], *stages[:-1]]
        blocks = [self._block(before, after, layers) for before, after in zip(inputs, stages, strict=True)]
        self.block0, self.block1, self.block2, self.block3, self.block4 = blocks
        self.classifier = nn.Linear(stages[-1], outputs)
        he_init(self, "fan_out", linear=0.01)

    @staticmethod
    def _block(inputs: int, outputs: int, layers: int) -> nn.Sequential:
        modules: list[nn.Module] = []
        for _ in range(layers):
            modules += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
            inputs = outputs
        return nn.Sequential(*modules[:-1])

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.max_pool2d(F.relu(self.block0(inputs)), 2)
        hidden = F.max_pool2d(F.relu(self.block1(hidden)), 2)
        hidden = F.max_pool2d(F.relu(self.block2(hidden)), 2)
        hidden = F.relu(self.block3(hidden))
        if inputs.shape[2] >= 64:
            hidden = F.max_pool2d(hidden, 2)
        return self.classifier(F.relu(self.block4(hidden)).mean((2, 3)))


VARIANTS = {
    "vgg8": Variant(CifarVGG, "VGG-8 with BatchNorm for CIFAR", {"layers": 1}, smallest=8),
    "vgg13": Variant(CifarVGG, "VGG-13 with BatchNorm for CIFAR", {"layers": 2}, smallest=8),
}
