"""Axes of tensors whose entries have to keep one common order, found by unification.

Every axis of every weight starts as a variable of its own: its entries could be reordered freely. Each operation of a forward pass ties
axes together (the inputs that a matrix multiplies, the channels that two branches of a residual network add up) or fixes them (pixels,
classes, whatever is not understood). What is left free at the end are the groups of units that can be permuted without changing what the
network computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """A stretch of an axis: entry (o, i, j) at position (o * size + i) * inner + j, where i is the unit of a variable.

    Flattening a map [channels, height, width] makes one segment with inner = height * width; concatenation puts segments in a row.

    Attributes:
        variable: whose units these are.
        size: how many units the variable has.
        outer: how many times the units run through.
        inner: how many entries each unit has in a row.
    """

    variable: int
    size: int
    outer: int = 1
    inner: int = 1

    @property
    def length(self) -> int:
        return self.outer * self.size * self.inner

    @property
    def whole(self) -> bool:
        """Whether it is the variable itself."""
        return self.outer == 1 and self.inner == 1


Axis = tuple[Segment, ...] | None  # None: its order is given (samples, pixels, classes)


class Axes:
    """The variables and what is known of them."""

    def __init__(self) -> None:
        self._bound: dict[int, tuple[Segment, ...]] = {}
        self._fixed: set[int] = set()
        self._next = 0

    def fresh(self, size: int) -> Axis:
        """A new variable; axes of length 1 have no order to speak of."""
        if size == 1:
            return None
        return (self._variable(size),)

    def whole(self, size: int) -> Axis:
        """A new variable, also of a single unit, to be put in a row with others."""
        return (self._variable(size),)

    def resolve(self, axis: Axis) -> Axis:
        """The axis in variables that are bound to nothing else."""
        if axis is None:
            return None
        found: list[Segment] = []
        for segment in axis:
            if segment.variable not in self._bound:
                found.append(segment)
                continue
            parts = self.resolve(self._bound[segment.variable]) or ()
            if segment.outer > 1 and len(parts) > 1:  # runs through several variables in turn: more than a segment can say
                self.fix(parts)
                return None
            found += [Segment(part.variable, part.size, segment.outer * part.outer, segment.inner * part.inner) for part in parts]
        return tuple(found)

    def fixed(self, variable: int) -> bool:
        """Whether a variable that is bound to nothing else has a given order."""
        return variable in self._fixed

    def fix(self, axis: Axis) -> None:
        """The order of all its units is given."""
        for segment in self.resolve(axis) or ():
            self._fixed.add(segment.variable)

    def unify(self, one: Axis, other: Axis) -> None:
        """Both axes have the same order from now on; where that can't be said in segments, it is fixed."""
        one, other = self.resolve(one), self.resolve(other)
        if one is None or other is None:
            self.fix(one)
            self.fix(other)
            return
        left, right = list(one), list(other)
        while left and right:
            first, second = left[0], right[0]
            if first.length != second.length:
                longer, shorter = (left, second) if first.length > second.length else (right, first)
                pieces = self._cut(longer[0], shorter.length)
                if pieces is None:
                    self.fix(tuple(left))
                    self.fix(tuple(right))
                    return
                longer[:1] = pieces
                left, right = list(self.resolve(tuple(left)) or ()), list(self.resolve(tuple(right)) or ())
                continue
            self._tie(left.pop(0), right.pop(0))
            left, right = list(self.resolve(tuple(left)) or ()), list(self.resolve(tuple(right)) or ())

    def slice(self, axis: Axis, start: int, stop: int) -> Axis:
        """A part of an axis; None (and a fixed order) where it cuts through a unit."""
        rest = self.resolve(axis)
        if rest is None:
            return None
        behind = self._after(rest, start)
        before = None if behind is None else self._until(behind, stop - start)
        if before is None:
            self.fix(rest)
        return before

    def _after(self, axis: tuple[Segment, ...], length: int) -> tuple[Segment, ...] | None:
        segments = list(axis)
        while length and segments:
            if segments[0].length <= length:
                length -= segments.pop(0).length
                continue
            pieces = self._cut(segments[0], length)
            if pieces is None:
                return None
            segments[:1] = pieces
        return tuple(segments)

    def _until(self, axis: tuple[Segment, ...], length: int) -> tuple[Segment, ...] | None:
        kept: list[Segment] = []
        segments = list(axis)
        while length and segments:
            if segments[0].length > length:
                pieces = self._cut(segments[0], length)
                if pieces is None:
                    return None
                segments[:1] = pieces
            kept.append(segments.pop(0))
            length -= kept[-1].length
        return tuple(kept)

    def _cut(self, segment: Segment, length: int) -> list[Segment] | None:
        """A segment in two, the first so long; its variable becomes two, each with an order of its own."""
        if segment.outer != 1 or length % segment.inner:
            return None
        first = length // segment.inner
        pieces = [self._variable(first), self._variable(segment.size - first)]
        if segment.variable in self._fixed:
            self._fixed.update(piece.variable for piece in pieces)
        self._bound[segment.variable] = tuple(pieces)
        return [Segment(piece.variable, piece.size, 1, segment.inner) for piece in pieces]

    def _variable(self, size: int) -> Segment:
        self._next += 1
        return Segment(self._next, size)

    def _tie(self, one: Segment, other: Segment) -> None:
        """Two segments of the same length."""
        if (one.outer, one.inner) == (other.outer, other.inner):
            if one.variable != other.variable:
                self._bind(one.variable, Segment(other.variable, other.size))
        elif one.whole and one.variable != other.variable:
            self._bind(one.variable, other)
        elif other.whole and one.variable != other.variable:
            self._bind(other.variable, one)
        else:
            self._fixed.update((one.variable, other.variable))

    def _bind(self, variable: int, to: Segment) -> None:
        if variable in self._fixed:
            self._fixed.add(to.variable)
        self._bound[variable] = (to,)


def joined(parts: Sequence[tuple[Axis, int]], axes: Axes) -> Axis:
    """Axes of these lengths in a row; those with a given order become fixed variables."""
    segments: list[Segment] = []
    for axis, length in parts:
        if axis is None:
            axes.fix(axis := axes.whole(length))
        segments += axis or ()
    return tuple(segments)
