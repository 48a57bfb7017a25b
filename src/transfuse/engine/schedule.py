"""Learning-rate and loss-weight schedules: pure functions of progress (0 to 1). A function's signature is its recipe block."""

import math
from collections.abc import Callable
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt

Share = Annotated[float, Ge(0), Lt(1)]
Part = Annotated[float, Ge(0), Le(1)]
NotNegative = Annotated[float, Ge(0)]
Factor = Annotated[float, Gt(0), Lt(1)]


def _warm(progress: float, warmup: float) -> float:
    return min(1.0, progress / warmup) if warmup > 0 else 1.0


def constant(progress: float, warmup: Share = 0.0) -> float:
    """The same learning rate throughout.

    Args:
        warmup: share of the run over which it rises linearly from 0.
    """
    return _warm(progress, warmup)


def cosine(progress: float, warmup: Share = 0.05, final: Part = 0.0) -> float:
    """Falls along half a cosine (Loshchilov and Hutter, 2017).

    Args:
        warmup: share of the run over which it rises linearly from 0.
        final: factor at the end.
    """
    if progress < warmup:
        return _warm(progress, warmup)
    fallen = (progress - warmup) / (1 - warmup)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, fallen)))


def one_cycle(progress: float, peak_at: Factor = 0.3, start: Factor = 0.04, final: Part = 0.0) -> float:
    """Up along a cosine from start to 1, then down to final (Smith, 2018).

    Args:
        peak_at: share of the run at which the peak is reached.
        start: factor at the beginning.
        final: factor at the end.
    """
    if progress < peak_at:
        return start + (1 - start) * 0.5 * (1 - math.cos(math.pi * progress / peak_at))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - peak_at) / (1 - peak_at))))


def step(progress: float, at: list[float] | None = None, factor: Factor = 0.1, warmup: Share = 0.0) -> float:
    """Multiplied by a factor at given shares of the run.

    Args:
        at: shares of the run; default 0.625, 0.75 and 0.875, the usual CIFAR schedule (epochs 150, 180, 210 of 240).
        factor: what each multiplies by.
        warmup: share of the run over which it rises linearly from 0.
    """
    milestones = [0.625, 0.75, 0.875] if at is None else at
    return _warm(progress, warmup) * factor ** sum(progress >= milestone for milestone in milestones)


def exponential(progress: float, start: Factor = 1e-6) -> float:
    """Rises by the same factor in each step, from start to 1: a learning-rate range test (Smith, 2017).

    Args:
        start: factor at the beginning.
    """
    return start ** (1 - progress)


SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "cosine": cosine,
    "one_cycle": one_cycle,
    "step": step,
    "exponential": exponential,
}


def linear_weight(progress: float, start: NotNegative = 0.0, end: NotNegative = 1.0, begin: Part = 0.0, until: Part = 1.0) -> float:
    """A loss weight that moves in a straight line.

    Args:
        start: weight up to `begin`.
        end: weight from `until` on.
        begin: share of the run at which it begins to move.
        until: share of the run at which it arrives.
    """
    if progress >= until:
        return end
    return start + (end - start) * max(0.0, progress - begin) / max(until - begin, 1e-12)


def cosine_weight(progress: float, start: NotNegative = 0.0, end: NotNegative = 1.0, begin: Part = 0.0, until: Part = 1.0) -> float:
    """A loss weight that moves along half a cosine.

    Args:
        start: weight up to `begin`.
        end: weight from `until` on.
        begin: share of the run at which it begins to move.
        until: share of the run at which it arrives.
    """
    moved = linear_weight(progress, 0.0, 1.0, begin, until)
    return start + (end - start) * 0.5 * (1 - math.cos(math.pi * moved))


WEIGHT_SCHEDULES: dict[str, Callable[..., float]] = {"linear": linear_weight, "cosine": cosine_weight}


def weight_function(weight: float | dict[str, Any]) -> Callable[[float], float]:
    """A recipe's weight (a number, or {linear: {...}}) as a function of progress."""
    if not isinstance(weight, dict):
        return lambda progress: weight
    name, settings = next(iter(weight.items()))
    return lambda progress: WEIGHT_SCHEDULES[name](progress, **settings)
