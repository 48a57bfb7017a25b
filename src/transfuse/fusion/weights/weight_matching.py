"""Weight matching: units are reordered until the networks' weights are as alike as possible, then averaged (Git Re-Basin)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn

from transfuse.fusion.alignment.matching import Start, match_weights
from transfuse.fusion.alignment.permuting import permuted
from transfuse.fusion.alignment.tracing import Specification
from transfuse.fusion.states import State
from transfuse.fusion.types import Calibration, MergeCard, Merged, Parent, Repair
from transfuse.fusion.weights._alignment import merge_aligned
from transfuse.fusion.weights._assembly import opened
from transfuse.fusion.weights.weighted import weighted

CARD = MergeCard(
    title="Weight matching (Git Re-Basin)",
    paper="Ainsworth, Hayase, Srinivasa, 2023, ICLR",
    link="https://arxiv.org/abs/2209.04836",
    needs=("same_shapes", "inputs"),
    cost="a linear assignment per group of units and sweep, cubic in its size",
)


def weight_matching(
    states: Sequence[State],
    specification: Specification,
    weights: Sequence[float] | None = None,
    sweeps: int = 100,
    seed: int = 0,
    start: Start = "layers",
    base: State | None = None,
) -> dict[str, Tensor]:
    """w = sum_i a_i P_i w_i / sum_i a_i, P_i being the permutation of units for which <P_i w_i, w_1> is largest; `base` is not looked at.

    More than two states are all matched with the first; the paper's MergeMany is not implemented.

    Args:
        states: of networks of one architecture.
        specification: which units may be reordered: `fusion.alignment.tracing.trace(module, example)`.
        weights: of the states; None: equal.
        sweeps: at most so many rounds over all groups of units.
        seed: of the order in which groups are visited.
        start: layers first goes once through the layers; identity starts with the units as they are, like the paper.

    Raises:
        ModelError: names or shapes differ.
    """
    matched = [match_weights(states[0], state, specification, sweeps, seed, start) for state in states[1:]]
    aligned = [states[0], *(permuted(state, specification, order) for state, order in zip(states[1:], matched, strict=True))]
    return weighted(aligned, [1.0] * len(states) if weights is None else weights)


class WeightMatching:
    """Aligns all sources with the first by their weights, and averages them by their weights.

    Args:
        sweeps: at most so many rounds over all groups of units.
        seed: of the order in which groups are visited.
        start: layers first goes once through the layers; identity starts with the units as they are, like the paper.
        repair: auto re-estimates BatchNorm's statistics and repairs the units of layers without; reset only the former; none neither.
    """

    def __init__(
        self, sweeps: Annotated[int, Ge(1)] = 100, seed: Annotated[int, Ge(0)] = 0, start: Start = "layers", repair: Repair = "auto"
    ):
        self.sweeps, self.seed = sweeps, seed
        self.start: Start = start
        self.repair: Repair = repair

    def merge(self, sources: Sequence[Parent], calibration: Calibration | None = None, base: nn.Module | None = None) -> Merged:
        opening = opened(CARD, sources, calibration, base)

        def match(number: int, specification: Specification) -> dict[str, Tensor]:
            return match_weights(opening.states[0], opening.states[number], specification, self.sweeps, self.seed, self.start)

        return merge_aligned(opening, match, self.repair)
