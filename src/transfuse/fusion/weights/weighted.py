"""Weighted mean of the weights: WiSE-FT's line between two networks, for any number of them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from transfuse.errors import RecipeError
from transfuse.fusion.states import State, average, combined
from transfuse.fusion.types import Calibration, MergeCard, Merged, Parent, Repair
from transfuse.fusion.weights._assembly import finished, opened

CARD = MergeCard(
    title="Weighted mean of the weights (WiSE-FT)",
    paper="Wortsman et al., 2022, CVPR",
    link="https://arxiv.org/abs/2109.01903",
    needs=("same_shapes", "shared_origin"),
)


def weighted(states: Sequence[State], weights: Sequence[float], base: State | None = None) -> dict[str, Tensor]:
    """w = sum_i a_i w_i / sum_i a_i; `base` is not looked at.

    Raises:
        ModelError: names or shapes differ.
        ValueError: another number of weights, a negative one, or all of them are 0.
    """
    return combined(states, lambda _, tensors: average(tensors, weights), weights)


class Weighted:
    """A mean in which the sources count differently.

    Args:
        weights: one per source, in their order; null: the weights that the sources are given with.
        repair: auto re-estimates BatchNorm's statistics; units also rescales the layers without; none leaves the averaged ones.
        check_origin: refuse networks that were not trained from the same weights.
    """

    def __init__(self, weights: list[float] | None = None, repair: Repair = "auto", check_origin: bool = True):
        self.weights = weights
        self.repair: Repair = repair
        self.check_origin = check_origin

    def merge(self, sources: Sequence[Parent], calibration: Calibration | None = None, base: nn.Module | None = None) -> Merged:
        """
        Raises:
            RecipeError: the weights don't fit the sources.
        """
        opening = opened(CARD, sources, calibration, base, self.check_origin)
        weights = [source.weight for source in sources] if self.weights is None else self.weights
        if len(weights) != len(sources) or min(weights) < 0 or sum(weights) <= 0:
            raise RecipeError(f"{len(sources)} sources need as many weights, not negative and not all 0; given: {weights}", "weights")
        shares = {source.name: weight / sum(weights) for source, weight in zip(sources, weights, strict=True)}
        return finished(opening, weighted(opening.states, weights), self.repair, weights=weights, figures={"weights": shares})
