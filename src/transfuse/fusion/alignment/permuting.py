"""Reorders a network's units: group by group in every weight that holds them, so that the network computes what it did."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from transfuse.core.taps import undisturbed, unwrapped
from transfuse.errors import ModelError
from transfuse.fusion.alignment.tracing import Group, Part, Specification

PRESERVED = 1e-5  # largest difference of outputs, relative to the largest output

Permutations = Mapping[str, Int[Tensor, "units"]]  # group -> new unit i is old unit permutation[i]


def identity(specification: Specification) -> dict[str, Tensor]:
    """Every unit stays where it is."""
    return {name: torch.arange(group.size) for name, group in specification.groups.items()}


def shuffled(specification: Specification, seed: int = 0) -> dict[str, Tensor]:
    """Every group in a random order."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randperm(group.size, generator=generator) for name, group in specification.groups.items()}


def permuted(state: Mapping[str, Tensor], specification: Specification, permutations: Permutations) -> dict[str, Tensor]:
    """The state dict with units in another order; groups that are not named stay.

    Raises:
        ModelError: a tensor has another shape than in the specification.
    """
    made = dict(state)
    for group_name, permutation in permutations.items():
        group = specification.groups[group_name]
        for part in group.parts:
            made[part.tensor] = _reordered(made[part.tensor], group, part, permutation, specification.shapes[part.tensor])
    return made


def _reordered(tensor: Tensor, group: Group, part: Part, permutation: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tuple(tensor.shape) != shape:
        raise ModelError(f"'{part.tensor}' has shape {tuple(tensor.shape)}, and the network that was traced {shape}")
    order = torch.arange(shape[part.axis])
    stretch = torch.arange(part.outer * group.size * part.inner).view(part.outer, group.size, part.inner)
    order[part.start : part.start + stretch.numel()] = part.start + stretch[:, permutation].reshape(-1)
    return tensor.index_select(part.axis, order.to(tensor.device))


def units(tensor: Tensor, group: Group, part: Part) -> Float[Tensor, "units entries"]:
    """A weight's entries by unit of a group."""
    stretch = tensor.narrow(part.axis, part.start, part.outer * group.size * part.inner).movedim(part.axis, 0)
    return stretch.reshape(part.outer, group.size, part.inner, -1).transpose(0, 1).reshape(group.size, -1)


def with_permuted_units(module: nn.Module, specification: Specification, permutations: Permutations, example: Tensor) -> nn.Module:
    """A copy of a network with its units in another order, that is shown to compute the same.

    Args:
        module: stays as it is.
        specification: of its units, from `trace`.
        permutations: group -> new unit i is old unit permutation[i].
        example: inputs on which both are compared.

    Raises:
        ModelError: outputs differ by more than 1e-5 of the largest: the network depends on its units' order in a way that its forward pass
            did not show.
    """
    network = copy.deepcopy(unwrapped(module))
    network.load_state_dict(permuted(network.state_dict(), specification, permutations))
    difference = changed(module, network, example)
    if not difference <= PRESERVED:
        what = f"{type(network).__name__} computes something else with its units in another order (difference {difference:.1e})"
        raise ModelError(what, fix="merge without alignment if the networks share their initial weights, or fuse outputs or features")
    return network


def changed(module: nn.Module, other: nn.Module, example: Tensor) -> float:
    """Largest difference of two networks' outputs on an example, relative to the largest output.

    In float64, where the order of a sum makes no difference; a network that can't be computed in it is compared as it is.
    """
    before, after = _doubled(module, example), _doubled(other, example)
    return float((before - after).abs().max() / before.abs().max().clamp(min=1e-12))


def _doubled(module: nn.Module, example: Tensor) -> Tensor:
    precise = copy.deepcopy(unwrapped(module)).double()
    try:
        with undisturbed(precise):
            return precise(example.double() if example.is_floating_point() else example)
    except RuntimeError:  # a dtype is written into its forward pass
        with undisturbed(module):
            return module(example).double()
