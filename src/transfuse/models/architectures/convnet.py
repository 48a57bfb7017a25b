"""A small plain ConvNet for tiny pictures, from 8x8 up."""

from typing import Annotated, Literal

from annotated_types import Gt, MinLen
from torch import Tensor, nn

from transfuse.errors import ModelError
from transfuse.models.architectures import Variant
from transfuse.models.architectures._layers import he_init

Norm = Literal["batch", "group", "none"]


def _norm(name: Norm, channels: int) -> nn.Module:
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "group":
        return nn.GroupNorm(next(groups for groups in (8, 4, 2, 1) if channels % groups == 0), channels)
    return nn.Identity()


class ConvNet(nn.Module):
    """3x3 convolution, norm and ReLU per stage, halving the side between stages; then the mean over positions and a linear layer.

    Args:
        outputs: classes or targets.
        input_shape: (channels, height, width).
        widths: channels of each stage.
        norm: batch, group (independent of the batch) or none.
    """

    def __init__(
        self,
        outputs: int,
        input_shape: tuple[int, ...],
        widths: Annotated[tuple[Annotated[int, Gt(0)], ...], MinLen(1)] = (16, 32, 64),
        norm: Norm = "batch",
    ):
        super().__init__()
        side = min(input_shape[1:])
        if side < 2 ** (len(widths) - 1):
            raise ModelError(f"{len(widths)} stages halve {side} pixels to nothing", fix="give fewer widths")
        self.stages = nn.ModuleList()
        channels = input_shape[0]
        for width in widths:
            stage = nn.Sequential()
            stage.add_module("conv", nn.Conv2d(channels, width, 3, padding=1, bias=norm == "none"))
            stage.add_module("norm", _norm(norm, width))
            stage.add_module("activation", nn.ReLU(inplace=True))
            self.stages.append(stage)
            channels = width
        self.pool = nn.MaxPool2d(2)
        self.linear = nn.Linear(channels, outputs)
        he_init(self, "fan_out")

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = inputs
        for number, stage in enumerate(self.stages):
            hidden = stage(self.pool(hidden) if number else hidden)
        return self.linear(hidden.mean((2, 3)))


VARIANTS = {"convnet": Variant(ConvNet, "small plain ConvNet for tiny pictures, from 8x8 up")}
