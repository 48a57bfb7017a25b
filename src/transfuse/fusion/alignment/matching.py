"""Finds the order of one network's units that matches another's, by linear assignment.

Ainsworth, Hayase, Srinivasa, 2023, ICLR (https://arxiv.org/abs/2209.04836).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from transfuse.errors import ModelError
from transfuse.fusion.alignment.permuting import Permutations, identity, permuted, units
from transfuse.fusion.alignment.tracing import Group, Part, Probe, Specification, collect
from transfuse.fusion.states import State, require_alike

Start = Literal["layers", "identity"]


def assignment(similarity: Float[Tensor, "units units"]) -> Tensor:
    """The permutation p with the largest sum_i similarity[i, p(i)]."""
    _, columns = linear_sum_assignment(similarity.numpy(force=True), maximize=True)
    return torch.from_numpy(columns)


def match_weights(
    reference: State, state: State, specification: Specification, sweeps: int = 100, seed: int = 0, start: Start = "layers"
) -> dict[str, Tensor]:
    """Weight matching (the paper's algorithm 1): the permutations that maximise the scalar product of all weights.

    One group after the other, in random order, is assigned anew while the others stay: unit i of the reference and unit j are as similar as
    the scalar product of all weights into, at and out of them. Until a sweep changes nothing. A local maximum: which one depends on the
    start and the order. The paper starts with the units as they are, from where deep networks are often not even matched with their own
    permuted copy; the default here first goes once through the layers and matches what comes into each group.

    Args:
        reference: whose order is wanted.
        state: whose units are to be reordered.
        specification: which units may be.
        sweeps: at most so many rounds over all groups.
        seed: of the order.
        start: layers, or the units as they are.

    Returns:
        Group -> for each unit of the reference the matching unit of `state`.

    Raises:
        ModelError: names or shapes differ.
    """
    require_alike([reference, state])
    generator = torch.Generator().manual_seed(seed)
    target = {name: tensor.double() for name, tensor in reference.items() if tensor.is_floating_point()}
    moving = {name: tensor.double() for name, tensor in state.items() if tensor.is_floating_point()}
    permutations = identity(specification) if start == "identity" else match_by_layers(target, moving, specification)
    groups = list(specification.groups.values())
    for _ in range(sweeps):
        improved = False
        for number in torch.randperm(len(groups), generator=generator).tolist():
            group = groups[number]
            similarity = weight_similarity(target, moving, specification, group, permutations)
            best, rows = assignment(similarity), torch.arange(group.size)
            gain = similarity[rows, best].sum() - similarity[rows, permutations[group.name]].sum()
            if gain > 1e-10 * similarity.abs().max().clamp(min=1e-300):
                permutations[group.name], improved = best, True
        if not improved:
            break
    return permutations


def match_by_layers(reference: State, state: State, specification: Specification) -> dict[str, Tensor]:
    """One pass in the order of the layers: each group by the weights that make it, of which the groups before it are matched already."""
    permutations = identity(specification)
    known: set[str] = set()
    for name, group in specification.groups.items():
        parts = [part for part in group.parts if part.learnt and not part.consumes]
        usable = [part for part in parts if {one.name for one, _ in specification.parts_of(part.tensor)} <= known | {name}]
        similarity = weight_similarity(reference, state, specification, group, permutations, usable or parts)
        permutations[name], known = assignment(similarity), known | {name}
    return permutations


def weight_similarity(
    reference: State,
    state: State,
    specification: Specification,
    group: Group,
    permutations: Permutations,
    parts: Sequence[Part] | None = None,
) -> Float[Tensor, "units units"]:
    """Scalar products of the weights of unit i in the reference and unit j of `state`, the other groups being in their present order.

    Of some parts of the group, or all that are learnt.
    """
    similarity = torch.zeros(group.size, group.size, dtype=torch.float64)
    for part in parts if parts is not None else [part for part in group.parts if part.learnt]:
        own = _others_permuted(state[part.tensor], part.tensor, part.axis, part.start, specification, permutations)
        similarity += units(reference[part.tensor], group, part) @ units(own, group, part).T
    return similarity


def _others_permuted(tensor: Tensor, name: str, axis: int, start: int, specification: Specification, permutations: Permutations) -> Tensor:
    """A tensor with every stretch in its present order but the one at this place."""
    for group, part in specification.parts_of(name):
        if (part.axis, part.start) != (axis, start):
            alone = Specification({group.name: Group(group.name, group.size, (part,), ())}, specification.shapes)
            tensor = permuted({name: tensor}, alone, {group.name: permutations[group.name]})[name]
    return tensor


class Activations:
    """Standardised products of two networks' units over inputs: what each group's consuming layers are given.

    Args:
        specification: of both networks' units.
    """

    def __init__(self, specification: Specification):
        self.specification = specification
        self.sums: dict[tuple[str, Probe], list[Tensor]] = {}

    def add(self, networks: tuple[nn.Module, nn.Module], inputs: Tensor) -> None:
        """One batch through both."""
        seen: list[dict[tuple[str, Probe], Tensor]] = [{}, {}]
        for network, found in zip(networks, seen, strict=True):

            def keep(group: str, probe: Probe, rows: Tensor, found: dict[tuple[str, Probe], Tensor] = found) -> None:
                found[group, probe] = rows.double()

            collect(network, inputs, self.specification, keep)
        for key, one in seen[0].items():
            other = seen[1][key]
            batch = [one.T @ other, one.T @ one, other.T @ other, one.sum(0), other.sum(0), torch.tensor(float(len(one)))]
            known = self.sums.get(key)
            self.sums[key] = batch if known is None else [before + now for before, now in zip(known, batch, strict=True)]

    def correlation(self, group: str, of: tuple[int, int] = (0, 1)) -> Float[Tensor, "units units"]:
        """Pearson correlation of unit i of network of[0] with unit j of network of[1], summed over the places where they are consumed.

        A unit that never varies correlates with none.
        """
        size = self.specification.groups[group].size
        total = torch.zeros(size, size, dtype=torch.float64)
        for (name, _), (cross, first, second, one, other, count) in self.sums.items():
            if name != group:
                continue
            products = {(0, 1): cross, (0, 0): first, (1, 1): second}[of]
            means = (one / count, other / count)
            squares = (first.diagonal(), second.diagonal())
            spread = [(square / count - mean.square()).clamp(min=0).sqrt() for square, mean in zip(squares, means, strict=True)]
            covariance = products / count - torch.outer(means[of[0]], means[of[1]])
            scale = torch.outer(spread[of[0]], spread[of[1]])
            total += torch.where(scale > 1e-12, covariance / scale.clamp(min=1e-12), torch.zeros_like(scale))
        return total


def correlations(reference: nn.Module, module: nn.Module, specification: Specification, inputs: Iterable[Tensor]) -> Activations:
    """Both networks' activations over inputs.

    Raises:
        ModelError: there are no inputs, or a network's forward pass goes another way than the traced one.
    """
    activations = Activations(specification)
    for batch in inputs:
        activations.add((reference, module), batch)
    if not activations.sums:
        raise ModelError("there are no calibration inputs to compare activations on")
    return activations


def match_activations(activations: Activations) -> dict[str, Tensor]:
    """Activation matching: for each group the permutation with the largest sum of correlations.

    Groups don't depend on each other, so this is the maximum. The paper correlates activations as well; here they are taken as the layers
    that use them are given them, after the nonlinearity, and summed where several layers do.

    Returns:
        Group -> for each unit of the reference the matching unit of the other network.
    """
    return {name: assignment(activations.correlation(name)) for name in activations.specification.groups}
