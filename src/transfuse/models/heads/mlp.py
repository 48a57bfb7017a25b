"""Hidden layers with an activation and dropout, then the layer that makes the outputs."""

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt, MinLen
from torch import nn

from transfuse.core.grafts import graft
from transfuse.core.last_layers import Head
from transfuse.models.heads.placing import plain_layer

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


class MLP:
    """Hidden layers, each followed by an activation and dropout; of a 1x1-convolution head they are 1x1 convolutions.

    Args:
        widths: units of each hidden layer; null: one of 256.
        dropout: probability of dropping a hidden unit in training.
        activation: relu, gelu, silu or tanh.
        at: path of the layer to replace; null: found by a forward pass.
    """

    def __init__(
        self,
        widths: Annotated[list[Annotated[int, Gt(0)]], MinLen(1)] | None = None,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        activation: Literal["relu", "gelu", "silu", "tanh"] = "relu",
        at: str | None = None,
    ):
        self.widths, self.dropout, self.activation, self.at = widths or [256], dropout, activation, at

    def build(self, network: nn.Module, head: Head, outputs: int, example: Any) -> None:
        layers: list[nn.Module] = []
        width = head.width
        for units in self.widths:
            layers += [plain_layer(head, units, width), ACTIVATIONS[self.activation]()]
            if self.dropout:
                layers.append(nn.Dropout(self.dropout))
            width = units
        graft(network, head.path, "instead", [*layers, plain_layer(head, outputs, width)])
