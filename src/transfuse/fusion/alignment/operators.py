"""What each operation of a forward pass does to the order of axes: ties them, carries them on, or fixes them.

Operations are those that torch dispatches (`aten`), under functional calls, modules and Python control flow alike. One that is not known
here fixes the order of everything that it is given: alignment then permutes less, never wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from torch import Tensor

from transfuse.fusion.alignment.axes import Axes, Axis, joined

Labels = list[Axis]
Contraction = Callable[[int, int], None]  # (position of an argument, its axis that is summed over)


class Operands:
    """The axes of an operation's tensors.

    Args:
        axes: what is known of the variables.
        labels: tensor -> its axes.
        contracted: told about every axis that is summed over against another tensor's.
    """

    def __init__(self, axes: Axes, labels: Callable[[Tensor], Labels], contracted: Contraction):
        self.axes, self.labels, self.contracted = axes, labels, contracted

    def fix(self, tensor: Tensor) -> None:
        for axis in self.labels(tensor):
            self.axes.fix(axis)

    def tie(self, one: Axis, other: Axis, length: int) -> None:
        if length > 1:
            self.axes.unify(one, other)


Rule = Callable[[Operands, Sequence[Any], Any], list[Labels] | None]  # -> the axes of each tensor that comes out; None: as given


def pointwise(operands: Operands, given: Sequence[Any], made: Any) -> list[Labels] | None:
    """Entry by entry, with broadcasting."""
    out: Labels = [None] * made.ndim
    decided: set[int] = set()
    for tensor in (value for value in given if isinstance(value, Tensor)):
        for back, (axis, length) in enumerate(zip(reversed(operands.labels(tensor)), reversed(tensor.shape), strict=True), 1):
            if length == 1:
                continue
            if back in decided:
                operands.tie(out[-back], axis, length)
            else:
                out[-back] = axis
                decided.add(back)
    return [out]


def matrix_product(operands: Operands, given: Sequence[Any], made: Any) -> list[Labels] | None:
    """mm, bmm, addmm, baddbmm: the last two tensors are multiplied, one before them is added."""
    first = len([value for value in given if isinstance(value, Tensor)]) - 2
    one, other = given[first], given[first + 1]
    left, right = operands.labels(one), operands.labels(other)
    operands.tie(left[-1], right[-2], one.shape[-1])
    operands.contracted(first, one.ndim - 1)
    operands.contracted(first + 1, other.ndim - 2)
    for axis in (*left[:-2], *right[:-2]):  # matrices in a batch
        operands.axes.fix(axis)
    out = [*[None] * (one.ndim - 2), left[-2], right[-1]]
    if first:
        for back, (axis, length) in enumerate(zip(reversed(operands.labels(given[0])), reversed(given[0].shape), strict=True), 1):
            operands.tie(out[-back], axis, length)
    return [out]


def convolution(operands: Operands, given: Sequence[Any], made: Any) -> list[Labels] | None:
    """Channels in are summed over, unless it is depthwise; then each channel keeps to itself. Other groups are fixed."""
    inputs, weight, bias, transposed, groups = given[0], given[1], given[2], given[6], given[8]
    seen, kernel = operands.labels(inputs), operands.labels(weight)
    for axis in (*kernel[2:], *seen[2:]):
        operands.axes.fix(axis)
    into, out_of = (0, 1) if transposed else (1, 0)
    channels = inputs.shape[1]
    out = kernel[out_of]
    if groups == 1:
        operands.tie(seen[1], kernel[into], channels)
        operands.contracted(0, 1)
        operands.contracted(1, into)
    elif groups == channels == weight.shape[0] and weight.shape[1] == 1:
        operands.tie(seen[1], kernel[0], channels)
        out = seen[1]
    else:
        for axis in (seen[1], kernel[0], kernel[1]):
            operands.axes.fix(axis)
        out = None
    if isinstance(bias, Tensor):
        operands.tie(out, operands.labels(bias)[0], len(bias))
    return [[None, out, *[None] * (made.ndim - 2)]]


def batch_norm(operands: Operands, given: Sequence[Any], made: Any) -> list[Labels] | None:
    """Every tensor besides the inputs has one entry per channel."""
    seen = operands.labels(given[0])
    for tensor in given[1:]:
        if isinstance(tensor, Tensor):
            operands.tie(seen[1], operands.labels(tensor)[0], len(tensor))
    return [seen, *[[None] * value.ndim for value in made[1:]]]


def layer_norm(operands: Operands, given: Sequence[Any], made: Any) -> list[Labels] | None:
    """The mean over the last axes does not ask for their order."""
    seen, count = operands.labels(given[0]), len(given[1])
    for tensor in given[2:4]:
        if isinstance(tensor, Tensor):
            for axis, own, length in zip(seen[-count:], operands.labels(tensor), tensor.shape, strict=True):
                operands.tie(axis, own, length)
    return [seen, *[[None] * value.ndim for value in made[1:]]]


def group_norm(operands: Operands, given: Sequence[Any], made: Any) -> list[Labels] | None:
    """One group, or one per channel, has no order; others are fixed."""
    inputs, weight, bias, channels, groups = given[0], given[1], given[2], given[4], given[6]
    seen = operands.labels(inputs)
    if groups not in (1, channels):
        operands.axes.fix(seen[1])
    for tensor in (weight, bias):
        if isinstance(tensor, Tensor):
            operands.tie(seen[1], operands.labels(tensor)[0], len(tensor))
    return [seen, *[[None] * value.ndim for value in made[1:]]]


def carried(operands: Operands, given: Sequence[Any], made: Any) -> list[Labels] | None:
    """Every axis stays as it is: softmax, copies."""
    return [operands.labels(given[0])]


def pooled(operands: Operands, given: Sequence[Any], made: Any) -> list[Labels] | None:
    """Samples and channels stay; positions are fixed."""
    seen = operands.labels(given[0])
    for axis in seen[2:]:
        operands.axes.fix(axis)
    out = [*seen[:2], *[None] * (len(seen) - 2)]
    return [out] * (len(made) if isinstance(made, (tuple, list)) else 1)


def reduced(operands: Operands, given: Sequence[Any], made: Any) -> list[Labels] | None:
    """Sums, means and extremes over an axis do not ask for its order."""
    seen = operands.labels(given[0])
    named = given[1] if len(given) > 1 and given[1] is not None else list(range(len(seen)))
    over = {axis % max(len(seen), 1) for axis in ([named] if isinstance(named, int) else named)}
    kept = made.ndim == len(seen)
    return [[None if number in over else axis for number, axis in enumerate(seen) if kept or number not in over]]


def permuted(operands: Operands, given: Sequence[Any], made: Any) -> list[Labels] | None:
    """permute(dims)."""
    seen = operands.labels(given[0])
    return [[seen[number] for number in given[1]]]


def transposed(operands: Operands, given: Sequence[Any], made: Any) -> list[Labels] | None:
    """t() and transpose(one, other)."""
    seen = list(operands.labels(given[0]))
    one, other = (given[1], given[2]) if len(given) > 1 else (0, -1)
    if seen:
        seen[one], seen[other] = seen[other], seen[one]
    return [seen]


def expanded(operands: Operands, given: Sequence[Any], made: Any) -> list[Labels] | None:
    """Repeated entries have no order, so their axis is a new variable."""
    seen, shape = operands.labels(given[0]), given[0].shape
    new = made.ndim - len(seen)
    out = [operands.axes.fresh(length) for length in made.shape[:new]]
    pairs = zip(seen, shape, made.shape[new:], strict=True)
    return [[*out, *(operands.axes.fresh(after) if before == 1 and after > 1 else axis for axis, before, after in pairs)]]


def constant(operands: Operands, given: Sequence[Any], made: Any) -> list[Labels] | None:
    """Equal entries have no order: zeros, ones, full."""
    return [[operands.axes.fresh(length) for length in made.shape]]


def padded(operands: Operands, given: Sequence[Any], made: Any) -> list[Labels] | None:
    """A constant on both sides of an axis, such as the channels that a ResNet's shortcut without weights adds."""
    out = list(operands.labels(given[0]))
    for back in range(len(given[1]) // 2):
        before, after = given[1][2 * back : 2 * back + 2]
        axis, length = out[-1 - back], given[0].shape[-1 - back]
        if axis is None or (before == 0 and after == 0):
            continue
        if before < 0 or after < 0:
            operands.axes.fix(axis)
            out[-1 - back] = None
            continue
        sides = [(operands.axes.whole(count), count) for count in (before, after)]
        parts = [part for part in (sides[0], (axis, length), sides[1]) if part[1]]
        out[-1 - back] = joined(parts, operands.axes)
    return [out]


def concatenated(operands: Operands, given: Sequence[Any], made: Any) -> list[Labels] | None:
    """The axes that are put in a row keep their own orders; the others are tied."""
    tensors = [tensor for tensor in given[0] if tensor.numel()]
    along = (given[1] if len(given) > 1 else 0) % made.ndim
    out = list(operands.labels(tensors[0]))
    for tensor in tensors[1:]:
        for number, axis in enumerate(operands.labels(tensor)):
            if number != along:
                operands.tie(out[number], axis, tensor.shape[number])
    parts = [(operands.labels(tensor)[along], tensor.shape[along]) for tensor in tensors]
    out[along] = None if all(axis is None for axis, _ in parts) else joined(parts, operands.axes)
    return [out]


def sliced(operands: Operands, given: Sequence[Any], made: Any) -> list[Labels] | None:
    """slice(dim, start, end, step)."""
    seen = list(operands.labels(given[0]))
    chosen: list[Any] = [*given[1:], *(0, None, None, 1)[len(given) - 1 :]]
    along = int(chosen[0])
    length = given[0].shape[along]
    start, stop, step = slice(*chosen[1:]).indices(length)
    if step != 1:
        operands.axes.fix(seen[along])
        seen[along] = None
    elif (start, stop) != (0, length):
        seen[along] = operands.axes.slice(seen[along], start, stop)
    return [seen]


def selected(operands: Operands, given: Sequence[Any], made: Any) -> list[Labels] | None:
    """select(dim, index): an entry that is named by its number."""
    seen = list(operands.labels(given[0]))
    operands.axes.fix(seen.pop(given[1]))
    return [seen]


def split(operands: Operands, given: Sequence[Any], made: Any) -> list[Labels] | None:
    """split and chunk: parts of an axis, each with an order of its own."""
    seen = operands.labels(given[0])
    along = given[2] if len(given) > 2 else 0
    out, start = [], 0
    for part in made:
        stop = start + part.shape[along]
        labels = list(seen)
        labels[along] = operands.axes.slice(seen[along], start, stop)
        out.append(labels)
        start = stop
    return out


def looked_up(operands: Operands, given: Sequence[Any], made: Any) -> list[Labels] | None:
    """embedding(weight, indices): rows are named by their number, columns are free."""
    rows, columns = operands.labels(given[0])
    operands.axes.fix(rows)
    return [[*[None] * (made.ndim - 1), columns]]


def reshaped(operands: Operands, given: Sequence[Any], made: Any) -> list[Labels] | None:
    """view and reshape: axes that are merged with positions become runs of entries per unit, which can be undone."""
    seen, before, after = operands.labels(given[0]), list(given[0].shape), list(made.shape)
    if 0 in before:
        return None
    out: Labels = []
    left, right = 0, 0
    while left < len(before) or right < len(after):
        start, first = left, right
        left, right = min(left + 1, len(before)), min(right + 1, len(after))
        while prod(before[start:left]) != prod(after[first:right]):
            if prod(before[start:left]) < prod(after[first:right]):
                left += 1
            else:
                right += 1
        while right < len(after) and after[right] == 1 and left == len(before):
            right += 1
        out += _regrouped(operands, seen[start:left], before[start:left], after[first:right])
    return [out]


def _regrouped(operands: Operands, seen: Labels, before: list[int], after: list[int]) -> Labels:
    """Some axes next to each other as others of the same product."""
    real = [(axis, length) for axis, length in zip(seen, before, strict=True) if length > 1]
    wide = [number for number, length in enumerate(after) if length > 1]
    out: Labels = [None] * len(after)
    if not real:
        return out
    if len(wide) == 1:
        out[wide[0]] = _merged(operands, real)
    elif len(real) == 1:
        for number, axis in zip(wide, _unmerged(operands, real[0][0], [after[number] for number in wide]), strict=True):
            out[number] = axis
    else:
        for axis, _ in real:
            operands.axes.fix(axis)
    return out


def _merged(operands: Operands, parts: list[tuple[Axis, int]]) -> Axis:
    known = [number for number, (axis, _) in enumerate(parts) if operands.axes.resolve(axis) is not None]
    if len(known) > 1:
        for axis, _ in parts:
            operands.axes.fix(axis)
    if len(known) != 1:
        return None
    axis = operands.axes.resolve(parts[known[0]][0]) or ()
    before = prod(length for _, length in parts[: known[0]])
    behind = prod(length for _, length in parts[known[0] + 1 :])
    if before > 1 and len(axis) > 1:
        operands.axes.fix(axis)
        return None
    return tuple(type(part)(part.variable, part.size, before * part.outer, behind * part.inner) for part in axis)


def _unmerged(operands: Operands, axis: Axis, lengths: list[int]) -> Labels:
    found = operands.axes.resolve(axis)
    if found is None:
        return [None] * len(lengths)
    for number, length in enumerate(lengths):
        before, behind = prod(lengths[:number]), prod(lengths[number + 1 :])
        if all(part.size * part.inner * part.outer == part.length and part.inner % behind == 0 for part in found):
            outer = {part.outer for part in found}
            whole = sum(part.size * (part.inner // behind) for part in found)
            if outer == {before} and whole == length and (before == 1 or len(found) == 1):
                kept = tuple(type(part)(part.variable, part.size, 1, part.inner // behind) for part in found)
                return [None] * number + [kept] + [None] * (len(lengths) - number - 1)
    operands.axes.fix(found)
    return [None] * len(lengths)


RULES: dict[str, Rule] = {
    "_prelu_kernel": pointwise,
    **dict.fromkeys(("mm", "bmm", "addmm", "baddbmm"), matrix_product),
    "convolution": convolution,
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"), batch_norm),
    "native_layer_norm": layer_norm,
    "native_group_norm": group_norm,
    **dict.fromkeys(("_softmax", "_log_softmax", "clone", "detach", "alias", "_to_copy", "lift_fresh_copy", "lift_fresh"), carried),
    **dict.fromkeys(("contiguous", "dropout", "native_dropout"), carried),
    **dict.fromkeys(("max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool1d"), pooled),
    **dict.fromkeys(("upsample_nearest2d", "upsample_bilinear2d", "reflection_pad2d", "replication_pad2d", "mkldnn_max_pool2d"), pooled),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), reduced),
    "permute": permuted,
    **dict.fromkeys(("t", "transpose"), transposed),
    "expand": expanded,
    **dict.fromkeys(("zeros", "ones", "full", "new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like"), constant),
    "constant_pad_nd": padded,
    "cat": concatenated,
    "slice": sliced,
    "select": selected,
    **dict.fromkeys(("split", "split_with_sizes"), split),
    "embedding": looked_up,
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "unsqueeze", "squeeze"), reshaped),
}
