"""Carries weights over group by group, so that layers that share units keep the same ones, and keeps the scale of what they compute."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from transfuse.core.taps import undisturbed
from transfuse.policies.init._pairing import Spread, Stretch, source_names, spread, stretches, taken
from transfuse.policies.init._scene import Group, Kind, Moved, Row, Scene, reestimated, written

Scale = Literal["measured", "fan_in", "none"]
Pair = tuple[str, str]
Matrix = Callable[[Group, Group], Tensor | None]  # target's and source's group -> indices, or a matrix [target, source]
MEASURED = 256  # training samples, in one batch
SMALLEST, LARGEST = 0.1, 10.0  # of a factor: a unit that is silent on a few samples says nothing of its scale
_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass
class Plan:
    """What will be carried: values of the target's tensors, and how the outputs of its layers are made of the source's.

    Attributes:
        values: by name.
        rows: what became of each tensor.
        used: the source's tensors that were taken.
        layers: path of a layer in the target -> its path in the source and how its outputs correspond.
        matrices: by pair of groups.
        narrowed: by name of a weight, by what factor fewer inputs it sums over.
    """

    values: dict[str, Tensor]
    rows: list[Row]
    used: set[str]
    layers: dict[str, tuple[str, list[Stretch]]]
    matrices: dict[Pair, Tensor]
    narrowed: dict[str, float]


def plan(source: nn.Module, target: nn.Module, scene: Scene, matrix: Matrix, kind: Kind, choose: Spread = spread) -> Plan:
    """Decides for each tensor of the target what it begins with; changes nothing."""
    ours, theirs = scene.groups(target), scene.groups(source)
    own, other = target.state_dict(), source.state_dict()
    names = source_names(target, source, choose)
    made = Plan({}, [], set(), {}, {}, {})
    for name, value in own.items():
        found, why = other.get(names[name]), ""
        axes: list[list[Stretch]] | None = None
        if found is None:
            why = "the source has no such tensor" if names[name] == name else f"the source has no {names[name]}"
        elif found.ndim != value.ndim:
            why = "another number of dimensions"
        else:
            paired = [
                stretches(name, names[name], axis, (value.shape[axis], found.shape[axis]), ours, theirs) for axis in range(value.ndim)
            ]
            axes = [axis for axis in paired if axis is not None]
            unlike = next((number for number, axis in enumerate(paired) if axis is None), None)
            if unlike is not None:
                axes, why = None, f"{value.shape[unlike]} and {found.shape[unlike]} entries that don't correspond"
            else:
                why = _matrices(axes, made.matrices, (ours, theirs), matrix)
        if axes is None or why or found is None:
            made.rows.append(Row(name, "left", "", tuple(value.shape), () if found is None else tuple(found.shape), why))
            continue
        _take(made, target, (name, names[name]), found, axes, kind)
    return made


def _matrices(axes: Sequence[Sequence[Stretch]], known: dict[Pair, Tensor], groups: tuple[Any, Any], matrix: Matrix) -> str:
    """Asks once for each pair of groups; says why the tensor can't be carried, or nothing."""
    for stretch in (stretch for axis in axes for stretch in axis):
        if stretch.units is None or stretch.units in known:
            continue
        one, other = groups[0][stretch.units[0]], groups[1][stretch.units[1]]
        made = torch.arange(one.size) if one.size == other.size else matrix(one, other)
        if made is None:
            return f"{one.size} units, the source has {other.size}"
        known[stretch.units] = made
    return ""


def _take(made: Plan, target: nn.Module, names: tuple[str, str], value: Tensor, axes: Sequence[Sequence[Stretch]], kind: Kind) -> None:
    name, other = names
    path, _, leaf = name.rpartition(".")
    module = target.get_submodule(path)
    changed = any(_changes(stretch, made.matrices) for axis in axes for stretch in axis)
    new = value
    if changed:
        new = new.double() if new.is_floating_point() else new
        for axis, found in enumerate(axes):
            new = taken(new, axis, found, made.matrices, _squares(module, leaf, value))
        new = new.to(value.dtype)
    made.values[name] = new
    made.used.add(other)
    made.rows.append(Row(name, kind if changed else "copied", other, tuple(new.shape), tuple(value.shape)))
    if leaf == "weight" and isinstance(module, _WEIGHTED):
        made.layers[path] = (other.rpartition(".")[0], list(axes[0]))
        made.narrowed[name] = value.shape[1] / new.shape[1]


def _changes(stretch: Stretch, matrices: Mapping[Pair, Tensor]) -> bool:
    if stretch.units is None:
        return False
    matrix = matrices[stretch.units]
    return matrix.ndim == 2 or not torch.equal(matrix, torch.arange(stretch.source_size))


def _squares(module: nn.Module, leaf: str, value: Tensor) -> bool:
    """Whether a tensor scales units one by one: diag(Q diag(v) Q') = (Q * Q) v."""
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return leaf == "weight" and module.groups > 1 and value.shape[1] == 1
    return leaf != "bias" and leaf != "running_mean" and not isinstance(module, nn.Linear) and value.ndim == 1


def carry(source: nn.Module, target: nn.Module, scene: Scene, made: Plan, scale: Scale) -> Moved:
    """Writes a plan into the target, with the scale that keeps the variance of what its layers compute; BatchNorm is estimated anew."""
    if scale == "fan_in":
        for name, factor in made.narrowed.items():
            made.values[name] = made.values[name] * math.sqrt(factor)
    moved = written(target, made.values, made.rows, made.used, source)
    moved_rows = any(row.kind not in ("copied", "left") or row.source not in ("", row.tensor) for row in made.rows)
    changed = moved_rows or bool(moved.unused)  # layers that aren't there any more change what those behind them are given
    if scale == "measured" and changed:
        moved.notes.append(_calibrated(source, target, scene, made))
    if changed and (norms := reestimated(target, scene)):
        moved.notes.append(f"the statistics of {norms} BatchNorm layers were estimated anew from training samples")
    return moved


def _calibrated(source: nn.Module, target: nn.Module, scene: Scene, made: Plan) -> str:
    """Scales each layer's units, in the order in which layers run, until their outputs vary as the source's do; mean too, where there is
    a bias. One batch; a layer sees what the layers before it give once they are scaled."""
    given, inputs, _ = next(iter(scene.batches(MEASURED)))
    wanted: dict[str, tuple[Tensor, Tensor]] = {}
    done: set[str] = set()

    def watch(path: str, found: Sequence[Stretch]) -> Any:
        def hook(module: nn.Module, _given: Any, output: Tensor) -> None:
            axis = -1 if isinstance(module, nn.Linear) else 1
            wanted[path] = _statistics(taken(output.double(), axis % output.ndim, found, made.matrices), axis)

        return hook

    def scaled(path: str) -> Any:
        def hook(module: nn.Module, _given: Any, output: Tensor) -> Tensor | None:
            if path in done or path not in wanted:
                return None
            done.add(path)
            axis = -1 if isinstance(module, nn.Linear) else 1
            return _rescale(module, output, axis, wanted[path])

        return hook

    for network, seen, hooked in ((source, given, watch), (target, inputs, None)):
        with undisturbed(network), ExitStack() as hooks:
            for path, (other, found) in made.layers.items():
                module = network.get_submodule(other if hooked else path)
                hooks.callback(module.register_forward_hook(hooked(path, found) if hooked else scaled(path)).remove)
            network(seen)
    return f"{len(done)} layers were scaled so that their outputs vary as the source's do, measured on {len(inputs)} training samples"


def _statistics(values: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each unit over samples and positions."""
    rows = values.movedim(axis, -1).flatten(0, -2)
    return rows.mean(0), rows.std(0, correction=0)


def _rescale(module: nn.Module, output: Tensor, axis: int, wanted: tuple[Tensor, Tensor]) -> Tensor:
    mean, deviation = _statistics(output.double(), axis)
    factor = torch.where(deviation > 1e-8, wanted[1] / deviation.clamp(min=1e-8), 1.0).clamp(SMALLEST, LARGEST)
    weight: Any = module.weight
    weight.mul_(factor.to(weight.dtype).reshape(-1, *[1] * (weight.ndim - 1)))
    shift = torch.zeros_like(mean)
    bias: Any = module.bias
    if bias is not None:
        shift = wanted[0] - factor * mean
        bias.copy_((factor * bias.double() + shift).to(bias.dtype))
    shown = [1] * output.ndim
    shown[axis] = -1
    return (output.double() * factor.reshape(shown) + shift.reshape(shown)).to(output.dtype)
