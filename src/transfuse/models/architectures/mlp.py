"""Multi-layer perceptron for columns, and for small pictures, which it flattens."""

import math
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from transfuse.models.architectures import Variant

Probability = Annotated[float, Ge(0), Lt(1)]
Activation = Literal["relu", "gelu", "silu", "tanh"]
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


class MLP(nn.Module):
    """Linear layers with an activation between them; weights from N(0, 2 / fan_in), biases 0.

    Args:
        outputs: classes or targets.
        input_shape: (columns,) or (channels, height, width).
        widths: units of each hidden layer; empty makes it a linear model.
        dropout: probability of dropping a hidden unit in training; a pair is that of an input and that of a hidden unit.
        activation: relu, gelu, silu or tanh.
        batchnorm: normalise each hidden layer before its activation.
        bias: whether the linear layers have biases.
        max_norm: largest L2 norm of the weights that come into a hidden unit; larger ones are scaled back before each training step's
            forward pass (Srivastava et al., 2014, section 5.1), as `nn.Embedding(max_norm=...)` does.
    """

    def __init__(
        self,
        outputs: int,
        input_shape: tuple[int, ...],
        widths: tuple[Annotated[int, Gt(0)], ...] = (256, 256),
        dropout: Probability | tuple[Probability, Probability] = 0.0,
        activation: Activation = "relu",
        batchnorm: bool = False,
        bias: bool = True,
        max_norm: Annotated[float, Gt(0)] | None = None,
    ):
        super().__init__()
        self.max_norm = max_norm
        of_inputs, of_units = dropout if isinstance(dropout, tuple | list) else (0.0, dropout)
        self.drop_inputs = nn.Dropout(of_inputs) if of_inputs else nn.Identity()
        self.layers = nn.ModuleList()
        inputs = math.prod(input_shape)
        for units in widths:
            layer = nn.Sequential()
            layer.add_module("linear", nn.Linear(inputs, units, bias=bias))
            if batchnorm:
                layer.add_module("norm", nn.BatchNorm1d(units))
            layer.add_module("activation", ACTIVATIONS[activation]())
            if of_units:
                layer.add_module("dropout", nn.Dropout(of_units))
            self.layers.append(layer)
            inputs = units
        self.linear = nn.Linear(inputs, outputs, bias=bias)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.max_norm is not None and self.training:
            self.limit_norms(self.max_norm)
        hidden = self.drop_inputs(inputs.flatten(1))
        for layer in self.layers:
            hidden = layer(hidden)
        return self.linear(hidden)

    @torch.no_grad()
    def limit_norms(self, max_norm: float) -> None:
        """Scales the incoming weights of each hidden unit back to at most this norm, in place."""
        for layer in self.layers:
            weight = layer.get_parameter("linear.weight")
            weight.copy_(torch.renorm(weight, 2, 0, max_norm))


VARIANTS = {"mlp": Variant(MLP, "multi-layer perceptron for columns and small pictures", input_shape=None, smallest=0)}
