"""Reads how a network ends: the layer that makes its outputs, and what that layer is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.last_layers import END_IN_ONE, last_layers
from transfuse.core.outputs import main_output
from transfuse.core.taps import Taps, undisturbed, unwrapped
from transfuse.errors import ModelError

CLOSE = 1e-3  # relative; between a network's outputs and what its last layer alone gives for the same features
SAME = 1e-5  # relative; up to the order of a sum


@dataclass(frozen=True)
class Ending:
    """How a network ends, as one forward pass shows it: outputs = inputs @ weight.T + bias.

    Attributes:
        path: of the last layer, a linear layer or a 1x1 convolution.
        weight: float [outputs, width]; of a network that selects or rescales its outputs, after that.
        bias: float [outputs].
        inputs: float [batch, width], what the layer was given for the example; maps averaged over positions.
        plain: whether the layer's outputs are the network's, unchanged.
        features: tapped features of the same pass, by path.
    """

    path: str
    weight: Float[Tensor, "outputs width"]
    bias: Float[Tensor, "outputs"]
    inputs: Float[Tensor, "batch width"]
    plain: bool = True
    features: dict[str, Tensor] = field(default_factory=dict)


def read_ending(module: nn.Module, example: Tensor, taps: Taps | None = None) -> Ending:
    """How a network ends.

    The last layer is found by following the outputs back to the first weights (`core.last_layers`). Whatever follows it (pooling, a choice
    of outputs, another scaling) has to be linear: it is folded into weight and bias, and checked on the example.

    Args:
        module: the network; logits out.
        example: inputs of one forward pass.
        taps: read features in the same pass.

    Raises:
        ModelError: there is no such layer, there are several, or what follows it is not linear.
    """
    network = unwrapped(module)
    with undisturbed(network):
        found = last_layers(network, example[:1])
        if len(found) > 1:
            what = f"the outputs of {type(network).__name__} are made by {len(found)} last layers: {', '.join(path for path, _ in found)}"
            raise ModelError(what, fix=END_IN_ONE)
        path, layer = found[0]
        given, made, outputs = _run(network, path, example)
        inputs = _pooled(given, layer)
        plain = _pooled(made, layer).shape == outputs.shape and _close(_pooled(made, layer), outputs, SAME)
        if plain:
            weight = layer.weight.detach().flatten(1).clone()
            bias = torch.zeros_like(weight[:, 0]) if layer.bias is None else layer.bias.detach().clone()
        else:
            weight, bias = _folded(network, layer, example, given)
        expected = inputs @ weight.T + bias if weight.shape[1] == inputs.shape[1] else None
        features = taps(example)[1] if taps is not None else {}
    if expected is None or expected.shape != outputs.shape or not _close(expected, outputs):
        what = f"what follows '{path}', the last layer of {type(network).__name__}, is not linear, so there is no head to be used elsewhere"
        raise ModelError(what, fix=END_IN_ONE)
    return Ending(path, weight, bias, inputs.detach(), plain, {name: feature.detach() for name, feature in features.items()})


def last_layer(module: nn.Module, example: Tensor) -> str:
    """Path of the layer that makes a network's outputs, whatever follows it; of several the first.

    Raises:
        ModelError: there is no such layer; lists those that might be meant.
    """
    return last_layers(unwrapped(module), example[:1])[0][0]


def require_in_front(ending: Ending, path: str, whose: str) -> None:
    """
    Raises:
        ModelError: the tapped feature, averaged over positions, is not what the last layer is given.
    """
    feature = ending.features[path]
    seen = feature.mean((2, 3)) if feature.ndim == 4 else feature.mean(1) if feature.ndim == 3 else feature
    if seen.shape != ending.inputs.shape or not _close(seen.float(), ending.inputs.float()):
        what = f"the {whose}'s '{path}', averaged over positions, is not what its last layer '{ending.path}' is given"
        raise ModelError(what, fix=f"tap the last feature before that layer, or {whose}_tap: {ending.path}@input for its input itself")


def _run(network: nn.Module, path: str, example: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Input and output of a layer in one forward pass, and the network's outputs."""
    ran: list[tuple[Tensor, Tensor]] = []

    def note(_module: nn.Module, given: Any, made: Any) -> None:
        ran.append((given[0], made))

    hook = network.get_submodule(path).register_forward_hook(note)
    try:
        outputs = main_output(network(example))
    finally:
        hook.remove()
    return *ran[-1], outputs


def _pooled(values: Tensor, layer: nn.Module) -> Tensor:
    """What a layer took or gave, averaged over positions: channels are the last axis of a linear layer's, the second of a convolution's."""
    positions = range(1, values.ndim - 1) if isinstance(layer, nn.Linear) else range(2, values.ndim)
    return values.mean(tuple(positions)) if positions else values


def _folded(network: nn.Module, layer: nn.Module, example: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of the last layer and all that follows it, from what the network makes of 0 and of the unit vectors."""
    width = given.shape[-1 if isinstance(layer, nn.Linear) else 1]
    units = torch.cat([given.new_zeros(1, width), torch.eye(width, dtype=given.dtype, device=given.device)])
    positions = [1] * (given.ndim - 2)
    shown = units.reshape(width + 1, *positions, width) if isinstance(layer, nn.Linear) else units.reshape(width + 1, width, *positions)
    hook = layer.register_forward_pre_hook(lambda _module, _given: (shown,))
    try:
        answers = main_output(network(example))
    except RuntimeError as error:
        raise ModelError(f"the last layer of {type(network).__name__} can't be read on its own: {str(error).splitlines()[0]}") from error
    finally:
        hook.remove()
    return (answers[1:] - answers[0]).T.contiguous(), answers[0].clone()


def _close(one: Tensor, other: Tensor, tolerance: float = CLOSE) -> bool:
    return bool((one - other).abs().max() <= tolerance * other.abs().max().clamp(min=1e-6))
