"""Spherical interpolation of two networks: along the arc between their weights, so that norms don't shrink."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from transfuse.fusion.states import State, combined
from transfuse.fusion.types import Calibration, MergeCard, Merged, Parent, Repair
from transfuse.fusion.weights._assembly import finished, opened

CARD = MergeCard(
    title="Spherical linear interpolation (slerp)",
    paper="Shoemake, 1985, SIGGRAPH; on weights: mergekit (Goddard et al., 2024, EMNLP Industry)",
    link="https://arxiv.org/abs/2403.13257",
    needs=("same_shapes", "shared_origin"),
    sources="two",
)
PARALLEL = 0.9995  # cosine above which the arc is a straight line, as in mergekit


def slerp(states: Sequence[State], t: float = 0.5, base: State | None = None) -> dict[str, Tensor]:
    """w = sin((1 - t) a) / sin(a) w_1 + sin(t a) / sin(a) w_2 tensor by tensor, a being the angle between the two; `base` is not looked at.

    Tensors with |cos a| above 0.9995, or without length, are interpolated in a straight line.

    Args:
        states: of two networks.
        t: 0 gives the first, 1 the second.

    Raises:
        ModelError: names or shapes differ.
        ValueError: not two states.
    """
    if len(states) != 2:
        raise ValueError(f"slerp goes from one network to another, and was given {len(states)}")
    return combined(states, lambda _, tensors: _arc(tensors[0], tensors[1], t), [1 - t, t])


def _arc(one: Tensor, other: Tensor, t: float) -> Tensor:
    lengths = one.norm() * other.norm()
    cosine = (one * other).sum() / lengths if lengths > 0 else torch.ones((), dtype=one.dtype)
    if cosine.abs() > PARALLEL:
        return (1 - t) * one + t * other
    angle = torch.arccos(cosine)
    return (torch.sin((1 - t) * angle) * one + torch.sin(t * angle) * other) / torch.sin(angle)


class Slerp:
    """A point on the arc between two sources.

    Args:
        t: where on the arc: 0 is the first source, 1 the second.
        repair: auto re-estimates BatchNorm's statistics; units also rescales the layers without; none leaves the averaged ones.
        check_origin: refuse networks that were not trained from the same weights.
    """

    def __init__(self, t: Annotated[float, Ge(0), Le(1)] = 0.5, repair: Repair = "auto", check_origin: bool = True):
        self.t = t
        self.repair: Repair = repair
        self.check_origin = check_origin

    def merge(self, sources: Sequence[Parent], calibration: Calibration | None = None, base: nn.Module | None = None) -> Merged:
        opening = opened(CARD, sources, calibration, base, self.check_origin)
        return finished(opening, slerp(opening.states, self.t), self.repair, weights=[1 - self.t, self.t])
