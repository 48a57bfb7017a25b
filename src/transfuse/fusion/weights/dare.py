"""DARE: most of what fine-tuning changed is dropped at random and the rest scaled up, before changes are added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

from transfuse.fusion.states import State, differences, moved, require_base
from transfuse.fusion.types import Calibration, MergeCard, Merged, Parent, Repair
from transfuse.fusion.weights._assembly import finished, opened
from transfuse.fusion.weights.ties import merged_changes

CARD = MergeCard(
    title="Drop and rescale (DARE)",
    paper="Yu et al., 2024, ICML",
    link="https://arxiv.org/abs/2311.03099",
    needs=("same_shapes", "shared_origin", "base"),
)
Then = Literal["task_arithmetic", "ties"]


def dare(
    states: Sequence[State],
    base: State | None = None,
    drop: float = 0.5,
    scaling: float = 0.3,
    then: Then = "task_arithmetic",
    seed: int = 0,
) -> dict[str, Tensor]:
    """Each change d becomes b d / (1 - drop) with b ~ Bernoulli(1 - drop), which keeps its expectation; then they are merged.

    task_arithmetic: w = w_0 + scaling sum_i d_i. ties: w = w_0 + scaling times the mean of those of the elected sign, nothing trimmed.

    Args:
        states: of networks trained from `base`.
        base: the weights that they began with.
        drop: probability that a change is dropped.
        scaling: of the merged change.
        then: how the remaining changes are merged.
        seed: of the draws.

    Raises:
        ModelError: there is no base; names or shapes differ.
    """
    generator = torch.Generator().manual_seed(seed)
    changes = [{name: _thinned(change, drop, generator) for name, change in one.items()} for one in differences(states, base)]
    if then == "ties":
        merged = merged_changes(changes, 1.0, "network")
    else:
        merged = {name: torch.stack([change[name] for change in changes]).sum(0) for name in changes[0]}
    return moved(require_base(states, base), states, {name: scaling * change for name, change in merged.items()})


def _thinned(change: Tensor, drop: float, generator: torch.Generator) -> Tensor:
    kept = torch.rand(change.shape, generator=generator, dtype=torch.float64) >= drop
    return change * kept.to(change.device) / (1 - drop)


class Dare:
    """A random part of what the sources changed, scaled up, on top of the base.

    Args:
        drop: probability that a change is dropped.
        scaling: of the merged change.
        then: how the remaining changes are merged: added up (task_arithmetic), or averaged over those of the elected sign (ties).
        seed: of the draws.
        repair: auto re-estimates BatchNorm's statistics; units also rescales the layers without; none leaves the averaged ones.
        check_origin: refuse networks that were not trained from the base.
    """

    def __init__(
        self,
        drop: Annotated[float, Ge(0), Lt(1)] = 0.5,
        scaling: float = 0.3,
        then: Then = "task_arithmetic",
        seed: Annotated[int, Ge(0)] = 0,
        repair: Repair = "auto",
        check_origin: bool = True,
    ):
        self.drop, self.scaling, self.seed = drop, scaling, seed
        self.then: Then = then
        self.repair: Repair = repair
        self.check_origin = check_origin

    def merge(self, sources: Sequence[Parent], calibration: Calibration | None = None, base: nn.Module | None = None) -> Merged:
        opening = opened(CARD, sources, calibration, base, self.check_origin)
        return finished(opening, dare(opening.states, opening.base, self.drop, self.scaling, self.then, self.seed), self.repair)
