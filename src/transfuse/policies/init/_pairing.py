"""Which tensor of the source a tensor of the target begins with, and which stretches of their axes correspond."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from transfuse.policies.init._scene import Group, Groups, Part

Spread = Callable[[int, int], list[int]]


@dataclass(frozen=True)
class Stretch:
    """Entries of one axis that correspond as wholes.

    Attributes:
        units: the groups of target and source whose units these are; None: entries with an order of their own.
        start, source_start: where the stretch begins on either axis.
        outer, inner: how often the units run through, and how many entries each has in a row.
        size, source_size: units on either side.
    """

    units: tuple[str, str] | None
    start: int
    source_start: int
    outer: int
    inner: int
    size: int
    source_size: int


def spread(count: int, of: int) -> list[int]:
    """So many of 0 .. of - 1, evenly, the first and the last among them: 6 of 12 are 0, 2, 4, 7, 9, 11, as DistilBERT takes them."""
    if count == 1:
        return [0]
    return [round(index * (of - 1) / (count - 1)) for index in range(count)]


def source_names(target: nn.Module, source: nn.Module, choose: Spread = spread) -> dict[str, str]:
    """Name of each tensor of the target -> name in the source: the same, but for layers in stacks of different depth.

    A stack is a sequence of modules of one type behind its first (the first of a stage may differ: it changes the shape). Where the
    source's stack at the same place is deeper, `choose(count, of)` says which of its layers are taken, and the others are dropped.
    """
    moved = _stacks(target, source, "", "", choose)
    names: dict[str, str] = {}
    for name in target.state_dict():
        parts, found = name.split("."), ""
        for length in range(len(parts) - 1, 0, -1):
            if (prefix := ".".join(parts[:length])) in moved:
                found = ".".join([moved[prefix], *parts[length:]])
                break
        names[name] = found or name
    return names


def _stacks(target: nn.Module, source: nn.Module, path: str, other: str, choose: Spread) -> dict[str, str]:
    """Target path -> source path for the layers of stacks, the outermost first."""
    moved: dict[str, str] = {}
    ours, theirs = dict(target.named_children()), dict(source.named_children())
    taken = {name: name for name in ours}
    if _is_stack(ours) and _is_stack(theirs) and len(ours) < len(theirs):
        taken = {name: str(index) for name, index in zip(ours, choose(len(ours), len(theirs)), strict=True)}
    for name, module in ours.items():
        if taken[name] not in theirs:
            continue
        here, there = (f"{above}.{below}" if above else below for above, below in ((path, name), (other, taken[name])))
        if here != there:
            moved[here] = there
        moved |= _stacks(module, theirs[taken[name]], here, there, choose)
    return moved


def _is_stack(children: Mapping[str, nn.Module]) -> bool:
    kinds = {type(module) for module in list(children.values())[1:]}
    blocks = all(next(module.children(), None) is not None for module in children.values())
    return bool(children) and all(name.isdigit() for name in children) and len(kinds) <= 1 and blocks


def stretches(name: str, other: str, axis: int, sizes: tuple[int, int], ours: Groups, theirs: Groups) -> list[Stretch] | None:
    """How one axis of a target's tensor is made of one of the source's; None where the two don't correspond."""
    mine, foreign = _on_axis(name, axis, ours), _on_axis(other, axis, theirs)
    if not mine and not foreign:
        return [Stretch(None, 0, 0, 1, 1, *sizes)] if sizes[0] == sizes[1] else None
    if len(mine) != len(foreign):
        return _one_sided(mine, foreign, sizes)
    found, here, there = [], 0, 0
    for (group, part), (source_group, source_part) in zip(mine, foreign, strict=True):
        if (part.outer, part.inner) != (source_part.outer, source_part.inner) or part.start - here != source_part.start - there:
            return None
        if part.start > here:
            found.append(Stretch(None, here, there, 1, 1, part.start - here, source_part.start - there))
        units = (group.name, source_group.name)
        found.append(Stretch(units, part.start, source_part.start, part.outer, part.inner, group.size, source_group.size))
        here, there = part.start + part.outer * part.inner * group.size, source_part.start + part.outer * part.inner * source_group.size
    if sizes[0] - here != sizes[1] - there:
        return None
    return [*found, Stretch(None, here, there, 1, 1, sizes[0] - here, sizes[1] - there)] if sizes[0] > here else found


def _one_sided(mine: list[tuple[Group, Part]], foreign: list[tuple[Group, Part]], sizes: tuple[int, int]) -> list[Stretch] | None:
    """An axis that only one of the networks is free to reorder corresponds as it is, where it is as long."""
    return [Stretch(None, 0, 0, 1, 1, *sizes)] if sizes[0] == sizes[1] and (not mine or not foreign) else None


def _on_axis(name: str, axis: int, groups: Groups) -> list[tuple[Group, Part]]:
    found = [(group, part) for group in groups.values() for part in group.parts if part.tensor == name and part.axis == axis]
    return sorted(found, key=lambda entry: entry[1].start)


def taken(value: Tensor, axis: int, found: Sequence[Stretch], matrices: Mapping[tuple[str, str], Tensor], squared: bool = False) -> Tensor:
    """One axis of a source's tensor as the target has it: the units of each group mapped by that pair's matrix [target, source].

    Args:
        value: the source's tensor.
        axis: of it.
        found: what `stretches` says.
        matrices: by pair of groups; a vector of indices selects units.
        squared: map by the squared matrix, as scales and variances are.
    """
    pieces = []
    for stretch in found:
        length = stretch.outer * stretch.inner * stretch.source_size
        piece = value.narrow(axis, stretch.source_start, length)
        if stretch.units is not None:
            matrix = matrices[stretch.units]
            opened = piece.movedim(axis, -1).unflatten(-1, (stretch.outer, stretch.source_size, stretch.inner))
            if matrix.ndim == 1:
                mapped = opened.index_select(-2, matrix)
            else:
                mapped = torch.einsum("...osi,ts->...oti", opened, (matrix.square() if squared else matrix).to(opened.dtype))
            piece = mapped.flatten(-3).movedim(-1, axis)
        pieces.append(piece)
    return torch.cat(pieces, axis)
