"""Finds and replaces the layer that makes a network's outputs, where its builder registered it last; see `models.heads` for any other."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from transfuse.core.grafts import graft, grafts_of
from transfuse.core.seeds import derive
from transfuse.errors import ModelError


@contextmanager
def fresh_weights(seed: int) -> Iterator[None]:
    """Inside, random weights are a function of the seed alone; outside, torch's generator is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "initialisation"))
        yield


def find_head(module: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d] | None:
    """Path and layer of the last linear layer or 1x1 convolution, in the order of registration; None where there is none."""
    found = None
    for path, layer in module.named_modules():
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1):
            found = (path, layer)
    return found


def outputs_of(module: nn.Module) -> int | None:
    """How many outputs a network has, as far as its last layer tells."""
    head = find_head(module)
    return None if head is None else head[1].weight.shape[0]


def head_parameters(module: nn.Module) -> tuple[nn.Parameter, ...]:
    """Weights of the last layer."""
    head = find_head(module)
    return () if head is None else tuple(head[1].parameters())


def replace_head(module: nn.Module, outputs: int, seed: int) -> nn.Module:
    """Puts a fresh last layer with the wanted number of outputs into a network, in place.

    Raises:
        ModelError: the network has no such layer, or is nothing but that layer.
    """
    head = find_head(module)
    if head is None or not head[0]:
        raise ModelError(f"can't find the last layer of {type(module).__name__}", fix="give a model with the right number of outputs")
    path, layer = head
    bias = layer.bias is not None
    with fresh_weights(seed):
        if isinstance(layer, nn.Linear):
            fresh: nn.Module = nn.Linear(layer.in_features, outputs, bias)
        else:
            fresh = nn.Conv2d(layer.in_channels, outputs, 1, bias=bias)
    if grafts_of(module):  # which tell how the network is made again
        graft(module, path, "replace", [fresh])
    else:
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, fresh)
    return module
