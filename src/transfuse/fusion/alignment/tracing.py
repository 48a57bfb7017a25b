"""Finds which units of a network can be reordered together, by watching one forward pass of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from transfuse.core.taps import undisturbed, unwrapped
from transfuse.errors import ModelError
from transfuse.fusion.alignment.axes import Axes, Axis, Segment
from transfuse.fusion.alignment.operators import RULES, Labels, Operands, Rule, pointwise

VIEWS = ("t", "transpose", "permute", "view", "slice", "expand", "unsqueeze", "squeeze", "detach", "alias", "reshape", "clone")


@dataclass(frozen=True)
class Part:
    """A stretch of one axis of a weight that holds a group's units; see `axes.Segment` for outer and inner.

    Attributes:
        tensor: name in the state dict.
        axis: which axis.
        start: where on the axis it begins.
        outer, inner: how often the units run through, and how many entries each has in a row.
        consumes: whether the axis is summed over against the units' values, or else makes or accompanies them.
        learnt: a parameter; False for buffers.
    """

    tensor: str
    axis: int
    start: int
    outer: int
    inner: int
    consumes: bool
    learnt: bool


@dataclass(frozen=True)
class Probe:
    """Where a forward pass holds a group's values, as the next layer is given them: an argument of the k-th operation."""

    operation: int
    name: str
    argument: int
    axis: int
    start: int
    outer: int
    inner: int


@dataclass(frozen=True)
class Group:
    """Units that can be reordered together.

    Attributes:
        name: the first weight that makes them.
        size: how many.
        parts: where they stand in the weights.
        probes: where a forward pass holds their values.
    """

    name: str
    size: int
    parts: tuple[Part, ...]
    probes: tuple[Probe, ...]


@dataclass(frozen=True)
class Specification:
    """What may be permuted in a network.

    Attributes:
        groups: by name, in the order of the forward pass.
        shapes: of every tensor of the state dict.
    """

    groups: dict[str, Group]
    shapes: dict[str, tuple[int, ...]]

    def parts_of(self, tensor: str) -> list[tuple[Group, Part]]:
        """The stretches of one tensor's axes that belong to groups."""
        return [(group, part) for group in self.groups.values() for part in group.parts if part.tensor == tensor]


class _Watch(TorchDispatchMode):
    """Keeps the axes of every tensor of a forward pass."""

    def __init__(self, axes: Axes, known: Mapping[str, Tensor]):
        super().__init__()
        self.axes = axes
        self.kept: dict[int, tuple[Tensor, Labels]] = {}  # holds the tensors too, so that no other gets the same id
        self.weights: dict[int, bool] = {}  # tensors that are views of weights
        self.own: dict[str, Labels] = {}
        self.consumed: set[int] = set()  # variables that a weight sums over
        self.touched: set[int] = set()
        self.probes: list[tuple[int, str, int, int, Axis]] = []
        self.count = 0
        for name, tensor in known.items():
            if id(tensor) not in self.kept:
                self.kept[id(tensor)] = (tensor, [axes.fresh(length) for length in tensor.shape])
                self.weights[id(tensor)] = True
            self.own[name] = self.kept[id(tensor)][1]

    def labels(self, tensor: Tensor) -> Labels:
        return self.kept[id(tensor)][1] if id(tensor) in self.kept else [None] * tensor.ndim

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        plain = name.removesuffix("_") if not name.startswith("__") else name
        given = [*args, *(value for value in (kwargs or {}).values() if isinstance(value, Tensor))]
        tensors = list(_tensors(given))
        self.touched.update(id(tensor) for tensor in tensors)
        rule: Rule | None = RULES.get(plain) or (pointwise if torch.Tag.pointwise in func.tags else None)
        operands = Operands(self.axes, self.labels, lambda argument, axis: self._contracted(plain, given, argument, axis))
        labels = rule(operands, given, made) if rule is not None else None
        if labels is None:
            for tensor in tensors:
                operands.fix(tensor)
        views = plain in VIEWS and bool(tensors) and self.weights.get(id(tensors[0]), False)
        for number, tensor in enumerate(_tensors([made])):
            known = labels[number] if labels is not None and number < len(labels) else [None] * tensor.ndim
            if id(tensor) not in self.kept or labels is not None:
                self.kept[id(tensor)] = (tensor, list(known))
            self.weights.setdefault(id(tensor), views)
        self.count += 1
        return made

    def _contracted(self, name: str, given: Sequence[Any], argument: int, axis: int) -> None:
        """Notes a weight's axis as one that sums over units, or where the pass holds the units' values."""
        tensor = given[argument]
        labels = self.labels(tensor)[axis]
        if self.weights.get(id(tensor), False):
            self.consumed.update(segment.variable for segment in labels or ())
        else:
            self.probes.append((self.count, name, argument, axis, labels))


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += _tensors(value)
    return found


def trace(module: nn.Module, example: Tensor) -> Specification:
    """Which units of a network can be permuted without changing what it computes.

    One forward pass is watched operation by operation. Residual sums tie the units of their branches, normalisation and depthwise
    convolutions go along with their channels, flattening keeps the entries of a channel together, concatenation keeps its parts apart.
    Inputs, outputs, positions and whatever an unknown operation touches stay in their order.

    Args:
        module: the network.
        example: inputs of one forward pass; two samples are enough.

    Raises:
        ModelError: its outputs are no tensor.
    """
    network = unwrapped(module)
    known = dict(network.state_dict(keep_vars=True))
    axes = Axes()
    watch = _Watch(axes, known)
    with undisturbed(network), _step_by_step():
        example = example.detach()
        with watch:
            outputs = network(example)
    if not isinstance(outputs, Tensor):
        raise ModelError(f"{type(network).__name__} gives {type(outputs).__name__}, not one tensor, so its units can't be followed")
    for axis in watch.labels(outputs):
        axes.fix(axis)
    for name, tensor in known.items():
        if id(tensor) not in watch.touched or not tensor.is_floating_point():
            for axis in watch.own[name]:
                axes.fix(axis)
    return _specification(known, watch)


@contextmanager
def _step_by_step() -> Iterator[None]:
    """Without torch's fused transformer layers, which would hide what happens inside."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _specification(known: Mapping[str, Tensor], watch: _Watch) -> Specification:
    parts: dict[int, list[Part]] = {}
    probes: dict[int, list[Probe]] = {}
    sizes: dict[int, int] = {}
    for name, tensor in known.items():
        for axis, labels in enumerate(watch.own[name]):
            consumes = any(segment.variable in watch.consumed for segment in labels or ())
            for segment, start in _free(watch.axes, labels):
                sizes[segment.variable] = segment.size
                part = Part(name, axis, start, segment.outer, segment.inner, consumes, isinstance(tensor, nn.Parameter))
                parts.setdefault(segment.variable, []).append(part)
    for operation, name, argument, axis, labels in watch.probes:
        for segment, start in _free(watch.axes, labels):
            probe = Probe(operation, name, argument, axis, start, segment.outer, segment.inner)
            probes.setdefault(segment.variable, []).append(probe)
    groups: dict[str, Group] = {}
    for variable, found in sorted(parts.items(), key=lambda one: min((probe.operation for probe in probes.get(one[0], ())), default=0)):
        learnt = [part for part in found if part.learnt]
        if sizes[variable] < 2 or not learnt:
            continue
        made = [part for part in learnt if not part.consumes] or learnt
        name = made[0].tensor if made[0].tensor not in groups else f"{made[0].tensor}[{made[0].start}]"
        groups[name] = Group(name, sizes[variable], tuple(found), tuple(probes.get(variable, ())))
    return Specification(groups, {name: tuple(tensor.shape) for name, tensor in known.items()})


def _free(axes: Axes, labels: Axis) -> list[tuple[Segment, int]]:
    """The stretches of an axis whose order is free, and where they begin."""
    found, start = [], 0
    for segment in axes.resolve(labels) or ():
        if not axes.fixed(segment.variable):
            found.append((segment, start))
        start += segment.length
    return found


class _Collect(TorchDispatchMode):
    """Hands the tensors at probes to a function as a forward pass comes to them."""

    def __init__(self, probes: Sequence[tuple[str, Probe]], take: Callable[[str, Probe, Tensor], None]):
        super().__init__()
        self.wanted: dict[int, list[tuple[str, Probe]]] = {}
        for group, probe in probes:
            self.wanted.setdefault(probe.operation, []).append((group, probe))
        self.take = take
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for group, probe in self.wanted.get(self.count, ()):
            if func.overloadpacket.__name__ != probe.name:
                what = f"a forward pass went another way than the traced one: {func.overloadpacket.__name__} instead of {probe.name}"
                raise ModelError(what, fix="align by weights: weight_matching")
            self.take(group, probe, args[probe.argument])
        self.count += 1
        return func(*args, **(kwargs or {}))


def collect(module: nn.Module, inputs: Tensor, specification: Specification, take: Callable[[str, Probe, Tensor], None]) -> None:
    """One forward pass in eval mode; `take(group, probe, values)` is given what consuming layers are given, [rows, units] in float32.

    Rows are samples and positions. The network has to be the traced one or a copy of it with other weights.
    """

    def flat(group: str, probe: Probe, tensor: Tensor) -> None:
        size = specification.groups[group].size
        length = probe.outer * size * probe.inner
        values = tensor.narrow(probe.axis, probe.start, length).movedim(probe.axis, -1)
        rows = values.reshape(-1, probe.outer, size, probe.inner).permute(0, 1, 3, 2).reshape(-1, size)
        take(group, probe, rows.detach().float())

    network = unwrapped(module)
    probes = [(name, probe) for name, group in specification.groups.items() for probe in group.probes]
    with undisturbed(network), _step_by_step(), _Collect(probes, flat):
        network(inputs)
