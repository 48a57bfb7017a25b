"""Mean of the weights: a uniform soup of networks trained from the same weights."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from transfuse.fusion.states import State, average, combined
from transfuse.fusion.types import Calibration, MergeCard, Merged, Parent, Repair
from transfuse.fusion.weights._assembly import finished, opened

CARD = MergeCard(
    title="Mean of the weights (uniform soup)",
    paper="Wortsman et al., 2022, ICML",
    link="https://arxiv.org/abs/2203.05482",
    needs=("same_shapes", "shared_origin"),
)


def mean(states: Sequence[State], base: State | None = None) -> dict[str, Tensor]:
    """w = 1/n sum_i w_i; `base` is not looked at.

    Raises:
        ModelError: names or shapes differ.
    """
    return combined(states, lambda _, tensors: average(tensors))


class Mean:
    """The plain mean of the sources' weights.

    Args:
        repair: auto re-estimates BatchNorm's statistics; units also rescales the layers without; none leaves the averaged ones.
        check_origin: refuse networks that were not trained from the same weights.
    """

    def __init__(self, repair: Repair = "auto", check_origin: bool = True):
        self.repair: Repair = repair
        self.check_origin = check_origin

    def merge(self, sources: Sequence[Parent], calibration: Calibration | None = None, base: nn.Module | None = None) -> Merged:
        opening = opened(CARD, sources, calibration, base, self.check_origin)
        return finished(opening, mean(opening.states), self.repair)
