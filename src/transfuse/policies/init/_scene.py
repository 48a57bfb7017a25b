"""What an initialisation is given, and how it tells what it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from transfuse.core.taps import undisturbed

Kind = Literal["copied", "resized", "selected", "projected", "scaled", "fitted", "left"]
SAMPLES = 1024  # training samples for statistics
SHOWN = 24  # rows of a table that is said; all of them are kept in the run folder


class Part(Protocol):
    """Where a group's units stand on one axis of one tensor: entry (o, i, j) at start + (o * size + i) * inner + j for unit i."""

    @property
    def tensor(self) -> str: ...
    @property
    def axis(self) -> int: ...
    @property
    def start(self) -> int: ...
    @property
    def outer(self) -> int: ...
    @property
    def inner(self) -> int: ...
    @property
    def consumes(self) -> bool: ...
    @property
    def learnt(self) -> bool: ...


class Group(Protocol):
    """Units that have to be chosen together, since layers share them: a residual stream, a convolution with its BatchNorm."""

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def parts(self) -> Sequence[Part]: ...


Groups = Mapping[str, Group]
Moments = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Scene:
    """What is known of the two networks.

    Attributes:
        batches: at most so many training samples -> their inputs as the source takes them, as the target takes them, and labels (float
            rows: one-hot for classes, standardised for targets), batch by batch; the same ones each time.
        groups: network -> which of its units belong together, from its traced structure.
        moments: groups of a network -> each group's mean [units] and second moment E[x x'] [units, units], as the layers behind it see it.
        seed: of random choices.
    """

    batches: Callable[[int], Iterator[tuple[Tensor, Tensor, Tensor]]]
    groups: Callable[[nn.Module], Groups]
    moments: Callable[[nn.Module], Moments]
    seed: int = 0


@dataclass(frozen=True)
class Row:
    """What became of one tensor of the target."""

    tensor: str
    kind: Kind
    source: str = ""
    shape: tuple[int, ...] = ()
    source_shape: tuple[int, ...] = ()
    why: str = ""


@dataclass
class Moved:
    """What an initialisation did.

    Attributes:
        rows: one for each tensor of the target.
        numbers: how many numbers the target has, and how many of them come from the source.
        unused: tensors of the source that went nowhere.
        notes: what else was done, in words.
    """

    rows: list[Row]
    numbers: tuple[int, int]
    unused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Of the target's numbers, those that come from the source."""
        return self.numbers[1] / max(1, self.numbers[0])

    def summary(self) -> str:
        """One line: how much, and how."""
        counts: dict[str, int] = {}
        for row in self.rows:
            counts[row.kind] = counts.get(row.kind, 0) + 1
        kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        rest = f"; {len(self.unused)} of the source's tensors were not used" if self.unused else ""
        return f"{self.numbers[1]:,} of {self.numbers[0]:,} numbers ({self.share:.0%}) come from the source: tensors {kinds}{rest}"

    def table(self, most: int | None = SHOWN) -> str:
        """The rows as text, layers of the same fate in one line; where not all fit, what was copied is left out first."""
        told = [row for row in self.rows if not row.tensor.endswith("num_batches_tracked")]
        lines = [self._line(kind, list(rows)) for (kind, *_), rows in groupby(told, key=_fate)]
        if most is not None and len(lines) > most:
            kept = [line for line in lines if not line[1].startswith("copied")][:most]
            kept += [line for line in lines if line not in kept][: most - len(kept)]
            lines = [*(line for line in lines if line in kept), (f"… and {len(lines) - most} more lines", "", "")]
        width, middle = max(len(line[0]) for line in lines), max(len(line[1]) for line in lines)
        return "\n".join(f"    {name:<{width}}  {kind:<{middle}}  {detail}".rstrip() for name, kind, detail in lines)

    @staticmethod
    def _line(kind: str, rows: list[Row]) -> tuple[str, str, str]:
        first = rows[0]
        names = f"{first.tensor} … {rows[-1].tensor} ({len(rows)})" if len(rows) > 1 else first.tensor
        shapes = "" if len(rows) > 1 or not first.source_shape else _arrow(first)
        block, source = _block(first.tensor), _block(first.source)
        return (
            names,
            f"{kind} from {source}" if source not in ("", block) else kind,
            "; ".join(part for part in (shapes, first.why) if part),
        )

    def as_dict(self) -> dict[str, Any]:
        """For a .json."""
        return {"summary": self.summary(), "rows": [vars(row) for row in self.rows], "unused": self.unused, "notes": self.notes}


def _fate(row: Row) -> tuple[str, ...]:
    """What rows of one line have in common: the kind, the reason, and the part of the network, or the layer of a stack that was moved."""
    moved = row.source and _block(row.source) != _block(row.tensor)
    return row.kind, row.why, _block(row.tensor) if moved else row.tensor.split(".")[0], _block(row.source) if moved else ""


def _block(name: str) -> str:
    """The name up to its last number: the layer of a stack."""
    parts = name.split(".")
    last = max((place for place, part in enumerate(parts) if part.isdigit()), default=-1)
    return ".".join(parts[: last + 1])


def _arrow(row: Row) -> str:
    """ "16x3x3x3 of 32x3x3x3", or the shape alone where both have it."""
    own, other = ("x".join(map(str, shape)) or "1" for shape in (row.shape, row.source_shape))
    return own if own == other else f"{own} of {other}"


def written(target: nn.Module, values: Mapping[str, Tensor], rows: Sequence[Row], used: set[str], source: nn.Module) -> Moved:
    """Writes the values into the target and counts what came from the source."""
    own = target.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(value)
    parameters = dict(target.named_parameters())
    taken = sum(parameters[name].numel() for name in values if name in parameters)
    unused = [name for name in source.state_dict() if name not in used and not name.endswith("num_batches_tracked")]
    return Moved(list(rows), (sum(parameter.numel() for parameter in parameters.values()), taken), unused)


def reestimated(target: nn.Module, scene: Scene) -> int:
    """Estimates the statistics of every BatchNorm anew, as means over the scene's batches; dropout stays off. Returns how many there are.

    Layers learn their statistics one pass after the other only where they depend on each other, which BatchNorm in training mode does
    not: it normalises by the batch at hand, so one pass serves all.
    """
    norms = [module for module in target.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats]
    if not norms:
        return 0
    momenta = [norm.momentum for norm in norms]
    with undisturbed(target):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
            norm.training = True
        for _, inputs, _ in scene.batches(SAMPLES):
            if len(inputs) > 1:
                target(inputs)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return len(norms)
