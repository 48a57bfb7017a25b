"""A single layer, of the kind that the network has: linear, or a convolution with kernels of one position."""

from typing import Any

from torch import nn

from transfuse.core.grafts import graft
from transfuse.core.last_layers import Head
from transfuse.models.heads.placing import plain_layer


class Linear:
    """A single layer under the old one's name.

    Args:
        at: path of the layer to replace; null: found by a forward pass.
    """

    def __init__(self, at: str | None = None):
        self.at = at

    def build(self, network: nn.Module, head: Head, outputs: int, example: Any) -> None:
        graft(network, head.path, "replace", [plain_layer(head, outputs)])
