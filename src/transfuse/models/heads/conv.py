"""Convolutions on the last feature map, before the network pools it, and a fresh last layer."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Gt
from torch import Tensor, nn

from transfuse.core.grafts import Place, graft
from transfuse.core.last_layers import Head
from transfuse.errors import ModelError
from transfuse.models.heads._maps import calls_before, dimensions_of
from transfuse.models.heads.placing import plain_layer


class Conv:
    """Blocks of convolution, BatchNorm and SiLU before the pool, then a single layer.

    SiLU and not ReLU, since networks may change their last map in place (DenseNet), which a ReLU's backward pass does not survive.

    Where the pool is a module, the blocks stand before it, so that the stages keep their paths; else after the last map.

    Args:
        layers: how many blocks.
        channels: of each block; null: as many as the map has. Another number needs a last layer that is given the pooled map itself.
        kernel: side of the kernels, odd; maps keep their size.
        at: path of the layer to replace; null: found by a forward pass.
    """

    def __init__(
        self,
        layers: Annotated[int, Gt(0)] = 1,
        channels: Annotated[int, Gt(0)] | None = None,
        kernel: Annotated[int, Gt(0)] = 3,
        at: str | None = None,
    ):
        if kernel % 2 == 0:
            raise ValueError(f"kernel {kernel} is even, and maps would change their size")
        self.layers, self.channels, self.kernel, self.at = layers, channels, kernel, at

    def build(self, network: nn.Module, head: Head, outputs: int, example: Any) -> None:
        path, place, width, dimensions = _last_map(network, head, example)
        channels = self.channels or width
        if channels != width and head.width != width:
            what = f"what follows '{path}' takes its {width} channels, so the blocks can't have {channels}"
            raise ModelError(what, where="head.conv.channels", fix="leave channels out")
        kinds: Any = {1: (nn.Conv1d, nn.BatchNorm1d), 2: (nn.Conv2d, nn.BatchNorm2d)}[dimensions]
        blocks: list[nn.Module] = []
        for number in range(self.layers):
            inputs = width if number == 0 else channels
            blocks += [kinds[0](inputs, channels, self.kernel, padding=self.kernel // 2, bias=False), kinds[1](channels), nn.SiLU()]
        layer = head.layer.weight
        for block in blocks:
            block.to(device=layer.device, dtype=layer.dtype)
        graft(network, head.path, "replace", [plain_layer(head, outputs, channels if channels != width else None)])
        graft(network, path, place, blocks)


def _last_map(network: nn.Module, head: Head, example: Any) -> tuple[str, Place, int, int]:
    """Where the blocks go (path and place), and channels and dimensions of the last map of channels and positions before the head.

    Raises:
        ModelError: no such map is what the network pools.
    """
    for number, ran in reversed(list(enumerate(calls := calls_before(network, head.path, example)))):
        dimensions = dimensions_of(calls[: number + 1])
        if _pools(ran.module) and isinstance(ran.given, Tensor) and ran.made.shape[2:].numel() == 1 and dimensions:
            return ran.path, "before", ran.given.shape[1], dimensions
        if dimensions and ran.made.shape[2:].numel() > 1:
            whole = [later.path for later in calls[number:] if later.made is ran.made]  # a container gives what its last module gave
            return whole[-1], "after", ran.made.shape[1], dimensions
        if ran.made.ndim == 3 and not dimensions:
            break  # tokens: what was a map before them is not what is pooled
    what = f"{type(network).__name__} pools no feature map of channels and positions, so there is no place for convolutions"
    raise ModelError(what, where="head.conv", fix="take head: linear, mlp or fusion")


def _pools(module: nn.Module) -> bool:
    return "Pool" in type(module).__name__ and not any(True for _ in module.parameters())
