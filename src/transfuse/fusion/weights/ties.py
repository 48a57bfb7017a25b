"""TIES: small changes are dropped, signs are elected, and only changes of the elected sign are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Gt, Le
from torch import Tensor, nn

from transfuse.fusion.states import State, differences, moved, require_base
from transfuse.fusion.types import Calibration, MergeCard, Merged, Parent, Repair
from transfuse.fusion.weights._assembly import finished, opened

CARD = MergeCard(
    title="TIES-merging (trim, elect sign, merge)",
    paper="Yadav et al., 2023, NeurIPS",
    link="https://arxiv.org/abs/2306.01708",
    needs=("same_shapes", "shared_origin", "base"),
)
Scope = Literal["network", "tensor"]


def ties(
    states: Sequence[State], base: State | None = None, keep: float = 0.2, scaling: float = 1.0, scope: Scope = "network"
) -> dict[str, Tensor]:
    """w = w_0 + scaling m, m_p being the mean of the trimmed changes at p whose sign is the elected one, over those that are not 0.

    Trim: of each source's changes the share `keep` with the largest magnitude stays. Elect: the sign of the sum of the trimmed changes;
    where that is 0, the sign that is elected more often elsewhere (the authors' code). The defaults are the paper's where nothing is
    searched for: keep 0.2, scaling 1.

    Args:
        states: of networks trained from `base`.
        base: the weights that they began with.
        keep: share of a source's changes that stay.
        scaling: of the merged change.
        scope: whether the largest changes are looked for in the whole network (authors) or in each tensor (mergekit).

    Raises:
        ModelError: there is no base; names or shapes differ.
    """
    changes = merged_changes(differences(states, base), keep, scope)
    return moved(require_base(states, base), states, {name: scaling * change for name, change in changes.items()})


def merged_changes(changes: Sequence[dict[str, Tensor]], keep: float, scope: Scope) -> dict[str, Tensor]:
    """Trim, elect and merge."""
    names = list(changes[0])
    blocks = [names] if scope == "network" else [[name] for name in names]
    made: dict[str, Tensor] = {}
    for block in blocks:
        flat = torch.stack([torch.cat([change[name].flatten() for name in block]) for change in changes])
        trimmed = torch.stack([_trimmed(row, keep) for row in flat])
        merged = _agreed(trimmed)
        for name, values in zip(block, merged.split([changes[0][name].numel() for name in block]), strict=True):
            made[name] = values.view_as(changes[0][name])
    return made


def _trimmed(change: Tensor, keep: float) -> Tensor:
    count = max(1, round(keep * change.numel()))
    kept = change.abs().topk(count).indices
    return torch.zeros_like(change).scatter(0, kept, change[kept])


def _agreed(changes: Tensor) -> Tensor:
    """[sources, weights] -> [weights]: the mean over the sources whose change has the elected sign."""
    elected = changes.sum(0).sign()
    majority = elected.sum().sign()
    elected = torch.where(elected == 0, majority, elected)
    chosen = (changes.sign() == elected) & (changes != 0)
    return (changes * chosen).sum(0) / chosen.sum(0).clamp(min=1)


class Ties:
    """The changes on which the sources agree, on top of the base.

    Args:
        keep: share of each source's changes that stay, the largest ones.
        scaling: of the merged change.
        scope: whether the largest changes are looked for in the whole network or in each tensor.
        repair: auto re-estimates BatchNorm's statistics; units also rescales the layers without; none leaves the averaged ones.
        check_origin: refuse networks that were not trained from the base.
    """

    def __init__(
        self,
        keep: Annotated[float, Gt(0), Le(1)] = 0.2,
        scaling: float = 1.0,
        scope: Scope = "network",
        repair: Repair = "auto",
        check_origin: bool = True,
    ):
        self.keep, self.scaling = keep, scaling
        self.scope: Scope = scope
        self.repair: Repair = repair
        self.check_origin = check_origin

    def merge(self, sources: Sequence[Parent], calibration: Calibration | None = None, base: nn.Module | None = None) -> Merged:
        opening = opened(CARD, sources, calibration, base, self.check_origin)
        return finished(opening, ties(opening.states, opening.base, self.keep, self.scaling, self.scope), self.repair)
