"""Arithmetic on state dicts: what a rule does to one weight is done to all, and what is no weight is kept right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from transfuse.errors import ModelError

State = Mapping[str, Tensor]
STATISTICS = ("running_mean", "running_var")  # averaged by every rule: extrapolated, a variance could become negative
COUNTS = ("num_batches_tracked",)
MOST_ROWS = 12  # of a table in a message


def is_weight(name: str, tensor: Tensor) -> bool:
    """Whether a rule applies to it: a floating-point tensor that is no running statistic."""
    return tensor.is_floating_point() and name.rpartition(".")[2] not in STATISTICS


def combined(
    states: Sequence[State], rule: Callable[[str, list[Tensor]], Tensor], weights: Sequence[float] | None = None
) -> dict[str, Tensor]:
    """A state dict whose weights are `rule(name, the sources' tensors in float64)`.

    Running statistics are averaged; counts become the largest; other whole numbers have to agree. Tensors that the first state holds twice
    (tied weights) are computed once and stay tied. Dtypes are those of the first state.

    Args:
        states: of networks of one architecture.
        rule: on one weight.
        weights: of the sources in the average of statistics; None: equal.

    Raises:
        ModelError: names, shapes or whole numbers differ.
    """
    require_alike(states)
    made: dict[str, Tensor] = {}
    tied: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {}
    for name, first in states[0].items():
        key = (first.data_ptr(), tuple(first.shape), first.stride())
        tensors = [state[name].detach() for state in states]
        if first.numel() and key in tied:
            made[name] = made[tied[key]]
        elif not first.is_floating_point():
            made[name] = whole_numbers(name, tensors)
        elif is_weight(name, first):
            made[name] = rule(name, [tensor.double() for tensor in tensors]).to(first.dtype)
        else:
            made[name] = average([tensor.double() for tensor in tensors], weights).to(first.dtype)
        tied.setdefault(key, name)
    return made


def average(tensors: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """sum_i w_i x_i / sum_i w_i.

    Raises:
        ValueError: another number of weights, a negative one, or all of them are 0.
    """
    weights = [1.0] * len(tensors) if weights is None else list(weights)
    if len(weights) != len(tensors) or min(weights) < 0 or not sum(weights) > 0:
        raise ValueError(f"{len(tensors)} sources need as many weights >= 0, not all of them 0: {weights}")
    total = sum(weights)
    return torch.stack([weight / total * tensor for weight, tensor in zip(weights, tensors, strict=True)]).sum(0)


def differences(states: Sequence[State], base: State | None) -> list[dict[str, Tensor]]:
    """Task vectors: each source's weights minus those that it was trained from, float64.

    Raises:
        ModelError: there is no base, or it is of another architecture.
    """
    known = require_base(states, base)
    return [{name: state[name].double() - start.double() for name, start in known.items() if is_weight(name, start)} for state in states]


def require_base(states: Sequence[State], base: State | None) -> State:
    """
    Raises:
        ModelError: there is no base, or it is of another architecture.
    """
    if base is None:
        raise ModelError("this rule adds up what training changed, so it has to know the weights that training began with", "base")
    require_alike([*states, base], [*(f"source {number}" for number in range(1, len(states) + 1)), "base"])
    return base


def moved(base: State, states: Sequence[State], changes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """base + changes on weights; statistics and whole numbers as the sources have them."""
    return combined(states, lambda name, _: base[name].double() + changes[name])


def mismatches(states: Sequence[State]) -> list[tuple[str, list[tuple[int, ...] | None]]]:
    """(name, its shape in each state, None where it is missing), of the tensors that are not alike in all."""
    names = dict.fromkeys(name for state in states for name in state)
    rows = [(name, [tuple(state[name].shape) if name in state else None for state in states]) for name in names]
    return [(name, shapes) for name, shapes in rows if len(set(shapes)) > 1]


def mismatch_table(rows: Sequence[tuple[str, list[tuple[int, ...] | None]]], names: Sequence[str]) -> str:
    """The tensors that differ, one line each."""
    width = max(len(name) for name, _ in rows[:MOST_ROWS])
    lines = [f"{'':{width}}  {'  '.join(f'{name:>18}' for name in names)}"]
    for name, shapes in rows[:MOST_ROWS]:
        cells = ("missing" if shape is None else "x".join(map(str, shape)) or "scalar" for shape in shapes)
        lines.append(f"{name:{width}}  {'  '.join(f'{cell:>18}' for cell in cells)}")
    if len(rows) > MOST_ROWS:
        lines.append(f"and {len(rows) - MOST_ROWS} more")
    return "\n".join(lines)


def require_alike(states: Sequence[State], names: Sequence[str] | None = None) -> None:
    """
    Raises:
        ModelError: tensors are missing or have other shapes; the table names them.
    """
    rows = mismatches(states)
    if rows:
        names = list(names) if names is not None else [f"source {number}" for number in range(1, len(states) + 1)]
        what = f"{len(rows)} of the tensors have different shapes, so these networks have no common weights:\n{mismatch_table(rows, names)}"
        raise ModelError(what, fix="use output or feature fusion, or `ot` where only widths differ")


def whole_numbers(name: str, tensors: Sequence[Tensor]) -> Tensor:
    """Counts become the largest; other whole numbers stay.

    Raises:
        ModelError: they differ between the sources.
    """
    if name.rpartition(".")[2] in COUNTS:
        return torch.stack(list(tensors)).amax(0)
    if any(not torch.equal(tensors[0], tensor) for tensor in tensors[1:]):
        raise ModelError(f"'{name}' holds whole numbers that differ between the sources, and there is no mean of those")
    return tensors[0].clone()
