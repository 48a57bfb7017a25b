"""Matrices between the units of two networks, where a permutation is not enough: optimal transport, and units merged within a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment, linprog
from scipy.sparse import coo_array
from torch import Tensor

from transfuse.errors import ModelError
from transfuse.fusion.alignment.tracing import Group, Part, Specification
from transfuse.fusion.states import State


@dataclass(frozen=True)
class Bridge:
    """How the units of one group become those of another network.

    Attributes:
        make: [units there, units here]; a unit there is this mixture of units here. Applied to what makes or accompanies units.
        use: [units there, units here]; what a layer takes from a unit here it takes in these parts from the units there.
    """

    make: Float[Tensor, "there here"]
    use: Float[Tensor, "there here"]


def transport_plan(cost: Float[Tensor, "here there"]) -> Float[Tensor, "here there"]:
    """The plan T >= 0 that minimises sum T cost with row sums 1/here and column sums 1/there, exactly.

    Of equal sizes it is a permutation over the size, found by assignment; else a linear program.

    Raises:
        ModelError: the program has no solution, which finite costs exclude.
    """
    here, there = cost.shape
    values = cost.double().numpy(force=True)
    if here == there:
        rows, columns = linear_sum_assignment(values)
        plan = torch.zeros(here, there, dtype=torch.float64)
        plan[torch.from_numpy(rows), torch.from_numpy(columns)] = 1 / here
        return plan
    cells = np.arange(here * there)
    sums = coo_array(
        (np.ones(2 * len(cells)), (np.concatenate([cells // there, here + cells % there]), np.tile(cells, 2))),
        shape=(here + there, here * there),
    )
    mass = np.concatenate([np.full(here, 1 / here), np.full(there, 1 / there)])
    found = linprog(values.ravel(), A_eq=sums.tocsr(), b_eq=mass, bounds=(0, None), method="highs")
    if found.x is None:
        raise ModelError(f"the transport between {here} and {there} units was not found: {found.message}")
    return torch.from_numpy(found.x).view(here, there)


def carried(state: State, specification: Specification, bridges: Mapping[str, Bridge]) -> dict[str, Tensor]:
    """A network's tensors with every group's axes led over its bridge, in float64; groups without one stay.

    Args:
        state: the network's.
        specification: of its units.
        bridges: by group.
    """
    made: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            made[name] = tensor
            continue
        value = tensor.double()
        for axis in range(value.ndim):
            matrix = axis_matrix(specification, name, axis, bridges)
            if matrix is not None:
                value = (value.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
        made[name] = value
    return made


def axis_matrix(specification: Specification, name: str, axis: int, bridges: Mapping[str, Bridge]) -> Tensor | None:
    """[entries there, entries here] of one axis: its groups' bridges, and the identity on what belongs to none. None: nothing to do."""
    length = specification.shapes[name][axis]
    stretches = sorted(
        ((group, part) for group, part in specification.parts_of(name) if part.axis == axis and group.name in bridges),
        key=lambda one: one[1].start,
    )
    if not stretches:
        return None
    blocks, position = [], 0
    for group, part in stretches:
        if part.start > position:
            blocks.append(torch.eye(part.start - position, dtype=torch.float64))
        blocks.append(_stretch_matrix(part, bridges[group.name]))
        position = part.start + part.outer * group.size * part.inner
    if position < length:
        blocks.append(torch.eye(length - position, dtype=torch.float64))
    return torch.block_diag(*blocks)


def _stretch_matrix(part: Part, bridge: Bridge) -> Tensor:
    matrix = (bridge.use if part.consumes else bridge.make).double()
    outer, inner = torch.eye(part.outer, dtype=torch.float64), torch.eye(part.inner, dtype=torch.float64)
    return torch.kron(torch.kron(outer, matrix), inner)


def corresponding(one: Specification, other: Specification) -> None:
    """
    Raises:
        ModelError: two networks differ in more than the number of units of their groups.
    """
    if one.shapes.keys() != other.shapes.keys() or one.groups.keys() != other.groups.keys():
        raise ModelError("the networks have different layers, not only different widths", fix="use output or feature fusion")
    for name, group in one.groups.items():
        places = [[(part.tensor, part.axis, part.outer, part.inner) for part in found.parts] for found in (group, other.groups[name])]
        if places[0] != places[1]:
            raise ModelError(f"the units of '{name}' are used differently in the networks", fix="use output or feature fusion")
    for name, shape in one.shapes.items():
        free = {part.axis for _, part in one.parts_of(name)}
        fixed = [(axis, length) for axis, length in enumerate(shape) if axis not in free]
        if len(shape) != len(other.shapes[name]) or any(other.shapes[name][axis] != length for axis, length in fixed):
            what = f"'{name}' is {shape} in one network and {other.shapes[name]} in another, on an axis that has to stay as it is"
            raise ModelError(what, fix="use output or feature fusion")


def makers(group: Group) -> list[Part]:
    """Where a group's units are made or accompanied: incoming weights, biases, normalisation."""
    return [part for part in group.parts if part.learnt and not part.consumes]
