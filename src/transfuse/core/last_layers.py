"""Finds the layers that make a network's outputs, from what one forward pass does and not from their names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from transfuse.core.outputs import main_name, named_tensors, run
from transfuse.core.registry import did_you_mean
from transfuse.core.taps import undisturbed, unwrapped
from transfuse.errors import ModelError

NAME_IT = "name the layer to replace, head: {linear: {at: PATH}}"  # advice where no head is found
END_IN_ONE = "give a network whose outputs are those of one linear layer or 1x1 convolution"
_MOST_CANDIDATES = 8  # in a message
_FORMS = ("T", "Transpose", "Permute", "View", "UnsafeView", "ReshapeAlias", "Unsqueeze", "Squeeze", "ToCopy", "Expand", "Clone")
_Owners = dict[int, list[tuple[str, nn.Module]]]


@dataclass(frozen=True)
class Head:
    """One layer that makes outputs.

    Attributes:
        paths: where the layer is registered; several where a network shares it.
        layer: a linear layer, or a convolution with kernels of one position.
        output: which of the network's outputs it makes: "" of the only one, "0" of a tuple's first, "logits".
        outputs: how many numbers it gives.
        width: how many numbers it is given.
        main: whether it makes the output that the network is there for.
    """

    paths: tuple[str, ...]
    layer: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
    output: str
    outputs: int
    width: int
    main: bool

    @property
    def path(self) -> str:
        return self.paths[0]


def find_heads(network: nn.Module, example: Any, advice: str = NAME_IT) -> list[Head]:
    """The layers that make a network's outputs, those of the main output first.

    The computation of each output is followed backwards to the first weights that it meets (normalisation and scales, whose parameters
    are vectors, don't count). A second pass with the network's containers in training mode, but no layer of it, shows heads that only
    run in training (GoogLeNet's); the network is left as it was.

    Args:
        network: any module.
        example: arguments of a forward pass: a tensor, a tuple of them, or a mapping; may be on the device "meta".
        advice: what to do where no head is found, which the message says in front of the candidates.

    Raises:
        ModelError: the main output is not made by such layers alone; lists the layers that might be meant, by path.
    """
    network = unwrapped(network)
    owners = _owners(network)
    with _watched(network):
        tensors = named_tensors(run(network, example))
        main = main_name(tensors)
        found = _heads_of(network, tensors, main, owners)
        if main is None or not any(head.main for head in found):
            raise _not_found(network, [] if main is None else _reached(tensors[main], owners), advice)
        found += [head for head in _in_training(network, example, owners) if all(head.layer is not known.layer for known in found)]
    return sorted(found, key=lambda head: not head.main)


def last_layers(network: nn.Module, example: Any) -> list[tuple[str, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d]]:
    """Path and layer of those that the main output is made of, whatever follows them: a choice of outputs, a pooling, a mean of several.

    Raises:
        ModelError: something else than linear layers and 1x1 convolutions makes the output; lists such layers.
    """
    network = unwrapped(network)
    owners = _owners(network)
    with _watched(network):
        tensors = named_tensors(run(network, example))
        main = main_name(tensors)
        reached = [] if main is None else _reached(tensors[main], owners)
    layers = {id(layer): layer for _, layer in reached}
    if not layers or not all(_replaceable(layer) for layer in layers.values()):
        raise _not_found(network, reached, END_IN_ONE)
    if layers.keys() == {id(network)}:
        raise ModelError(f"{type(network).__name__} is a single layer, so nothing is in front of its last one", fix="give a network")
    return [(path, layers[id(layer)]) for path, layer in network.named_modules() if id(layer) in layers]  # as they were registered


def _heads_of(network: nn.Module, tensors: dict[str, Tensor], main: str | None, owners: _Owners) -> list[Head]:
    heads: list[Head] = []
    for name, tensor in tensors.items():
        reached = _reached(tensor, owners)
        layers = {id(layer): layer for _, layer in reached}
        if not layers or not all(_makes(layer, tensor) for layer in layers.values()):
            continue
        for layer in layers.values():
            if all(layer is not head.layer for head in heads):
                outputs, width = layer.weight.shape[:2]
                heads.append(Head(_paths(network, layer), layer, name, outputs, width, name == main))
    return heads


def _in_training(network: nn.Module, example: Any, owners: _Owners) -> list[Head]:
    """Heads of a pass in training mode, none of them taken for the main one; nothing where that pass fails."""
    for module in network.modules():
        module.training = next(module.children(), None) is not None
    try:
        with torch.random.fork_rng(devices=[]):
            tensors = named_tensors(run(network, example))
    except (RuntimeError, ValueError, TypeError, AssertionError):
        return []
    return _heads_of(network, tensors, None, owners)


def head_at(network: nn.Module, path: str, example: Any) -> Head:
    """The layer at a path, as the head of the main output.

    Raises:
        ModelError: there is no such module, or no head can be put in its place.
    """
    network = unwrapped(network)
    modules = dict(network.named_modules())
    if path not in modules or not path or not _replaceable(modules[path]):
        kind = f"is {type(modules[path]).__name__}, no linear layer or 1x1 convolution" if path in modules else "is not there"
        raise ModelError(f"'{path}' {kind}{did_you_mean(path, modules)}", where="head.at", fix=f"candidates:{listed(network)}")
    layer: Any = modules[path]
    with undisturbed(network):
        tensors = named_tensors(run(network, example))
    outputs, width = layer.weight.shape[:2]
    named = next((name for name, tensor in tensors.items() if _makes(layer, tensor)), main_name(tensors))
    return Head(_paths(network, layer), layer, named or "", outputs, width, True)


@contextmanager
def _watched(network: nn.Module) -> Iterator[None]:
    """Eval mode, with a graph of the computation that reaches every parameter; afterwards all is as it was."""
    modes = [(module, module.training) for module in network.modules()]
    frozen = [parameter for parameter in network.parameters() if not parameter.requires_grad and parameter.is_floating_point()]
    try:
        network.eval()
        for parameter in frozen:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for module, mode in modes:
            module.training = mode


def _owners(network: nn.Module) -> _Owners:
    """Identity of each parameter with more than one dimension -> the modules that hold it, with their paths.

    What a parametrisation (weight norm) holds is its layer's.
    """
    owners: _Owners = {}
    for path, module in network.named_modules():
        inside, _, held = f".{path}".partition(".parametrizations.")
        layer = inside.removeprefix(".") if held else path
        for parameter in module.parameters(recurse=False):
            if parameter.ndim > 1:
                owners.setdefault(id(parameter), []).append((layer, network.get_submodule(layer)))
    return owners


def _reached(tensor: Tensor, owners: _Owners) -> list[tuple[str, Any]]:
    """Path and module of the weights that a tensor's computation meets first, going backwards."""
    found: list[tuple[str, Any]] = []
    waiting, seen = [tensor.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        weights = [parameter for after, _ in node.next_functions for parameter in _parameters(after) if id(parameter) in owners]
        if weights:
            found += [holder for weight in weights for holder in _layers_among(owners[id(weight)])]
        else:
            waiting += [after for after, _ in node.next_functions]
    return found


def _layers_among(holders: list[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
    """Of the modules that share a weight, those that run as layers of their own (an embedding does not); all, where none does."""
    return [holder for holder in holders if _replaceable(holder[1])] or holders


def _parameters(node: Any) -> list[Tensor]:
    """The parameters that a value is made of, where it is a parameter seen in another form: transposed, reshaped, normalised."""
    while node is not None and not hasattr(node, "variable"):
        following = [after for after, _ in node.next_functions if after is not None]
        form = node.name().rstrip("0123456789").removesuffix("Backward")
        if form == "WeightNormInterface":
            return [after.variable for after in following if hasattr(after, "variable")]
        node = following[0] if len(following) == 1 and form in _FORMS else None
    return [] if node is None else [node.variable]


def _replaceable(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Linear):
        return True
    convolution = isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    return convolution and layer.groups == 1 and all(size == 1 for size in layer.kernel_size)


def _makes(layer: nn.Module, tensor: Tensor) -> bool:
    """Whether a tensor has as many classes as the layer has outputs."""
    if not _replaceable(layer):
        return False
    along = tensor.shape[1:] if tensor.ndim > 1 else (1,)
    rows: Any = layer.weight
    return rows.shape[0] == (along[-1] if isinstance(layer, nn.Linear) else along[0])


def _paths(network: nn.Module, layer: nn.Module) -> tuple[str, ...]:
    return tuple(path for path, module in network.named_modules(remove_duplicate=False) if module is layer)


def candidates(network: nn.Module) -> list[str]:
    """Linear layers and convolutions with kernels of one position, as a message lists them; the last registered first."""
    lines = []
    for path, module in network.named_modules():
        if _replaceable(module):
            weight: Any = module.weight
            lines.append(f"{path or '(the network itself)'} ({type(module).__name__} {weight.shape[1]} -> {weight.shape[0]})")
    return lines[::-1]


def _not_found(network: nn.Module, reached: list[tuple[str, Any]], advice: str) -> ModelError:
    paths = sorted({path for path, _ in reached})
    lines = candidates(network)
    made = f"; its outputs are made by {', '.join(path or 'parameters of its own' for path in paths[:4])}" if paths else ""
    what = f"can't find the last layer of {type(network).__name__}{made}"
    if not lines:
        return ModelError(what, fix="a head is a linear layer or a 1x1 convolution, and this network has none")
    return ModelError(what, fix=f"{advice}; candidates:{listed(network)}")


def listed(network: nn.Module) -> str:
    """The candidates as lines of a message; " none" where there are none."""
    lines = candidates(network)
    shown = "".join(f"\n    {line}" for line in lines[:_MOST_CANDIDATES])
    more = f"\n    … and {len(lines) - _MOST_CANDIDATES} more" if len(lines) > _MOST_CANDIDATES else ""
    return f"{shown}{more}" or " none"
