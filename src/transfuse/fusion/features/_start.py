"""How a fusion begins at what its sources say already: their own last layers, carried through projections and phi without a change."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.fusion.features._projections import Activation

Linear = tuple[Float[Tensor, "outputs dim"], Float[Tensor, "outputs"]]
"""weight and bias of a linear layer"""


def carried(maps: nn.ModuleList, heads: Sequence[Linear], marks: Float[Tensor, "sources width"] | None = None) -> bool:
    """Sets the first 2c units behind every source's projection to z = W f + b and to -z, c being the number of outputs.

    phi keeps both halves of z apart, so that phi(z) - phi(-z) = z for ReLU and GELU and 2z for none; other units stay as they are.

    Args:
        maps: as `projections` makes them.
        heads: one per source, on its features.
        marks: what the rule adds to projected features.

    Returns:
        whether there is room; nothing is changed where there is none, or where features are not projected.
    """
    outputs = len(heads[0][1])
    if any(isinstance(one, nn.Identity) or _last(one).out_features < 2 * outputs for one in maps):
        return False
    with torch.no_grad():
        for place, (one, (weight, bias)) in enumerate(zip(maps, heads, strict=True)):
            both, shift = torch.cat([weight, -weight]), torch.cat([bias, -bias])
            units = slice(0, 2 * outputs)
            if isinstance(one, nn.Sequential):  # GELU between two layers: the second puts both halves together again
                _set(_first(one), units, both, shift)
                unit = torch.eye(outputs, dtype=weight.dtype)
                second = weight.new_zeros(2 * outputs, _last(one).in_features)
                second[:, units] = torch.cat([torch.cat([unit, -unit], 1), torch.cat([-unit, unit], 1)])
                both, shift = second, torch.zeros_like(shift)
            if marks is not None:
                shift = shift - marks[place, units].detach()
            _set(_last(one), units, both, shift)
    return True


def read(outputs: int, widths: Sequence[int], activation: Activation) -> Linear:
    """The layer on top that reads z back out of every block of units that `carried` has set, and adds them up.

    Args:
        outputs: length of z.
        widths: of the blocks: one per source where they stand side by side, one where they were added up.
        activation: phi.
    """
    factor = 0.5 if activation == "none" else 1.0
    unit = factor * torch.eye(outputs, dtype=torch.float64)
    blocks = [torch.cat([unit, -unit, unit.new_zeros(outputs, width - 2 * outputs)], 1) for width in widths]
    return torch.cat(blocks, 1), torch.zeros(outputs, dtype=torch.float64)


def _first(project: nn.Module) -> nn.Linear:
    layer = project[0] if isinstance(project, nn.Sequential) else project
    assert isinstance(layer, nn.Linear)
    return layer


def _last(project: nn.Module) -> nn.Linear:
    layer = project[-1] if isinstance(project, nn.Sequential) else project
    assert isinstance(layer, nn.Linear)
    return layer


def _set(layer: nn.Linear, units: slice, weight: Tensor, bias: Tensor) -> None:
    layer.weight[units] = weight.to(layer.weight)
    layer.bias[units] = bias.to(layer.bias)
