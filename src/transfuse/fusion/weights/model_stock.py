"""Model stock: the mean of fine-tuned weights, pulled towards the pretrained ones as far as their angle says."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from transfuse.fusion.states import State, differences, moved, require_base
from transfuse.fusion.types import Calibration, MergeCard, Merged, Parent, Repair
from transfuse.fusion.weights._assembly import finished, opened

CARD = MergeCard(
    title="Model stock",
    paper="Jang, Yun, Han, 2024, ECCV",
    link="https://arxiv.org/abs/2403.19522",
    needs=("same_shapes", "shared_origin", "base"),
)


def model_stock(states: Sequence[State], base: State | None = None) -> dict[str, Tensor]:
    """w = t mean_i w_i + (1 - t) w_0 with t = n c / (1 + (n - 1) c), tensor by tensor.

    c is the cosine of the angle between two sources' changes, for more than two the mean over pairs. A negative c counts as 0 (the paper's
    geometry has angles below 90 degrees), and so does that of a tensor that a source has not changed.

    Raises:
        ModelError: there is no base; names or shapes differ.
        ValueError: fewer than two states.
    """
    changes = differences(states, base)
    if len(changes) < 2:
        raise ValueError("an angle needs two fine-tuned networks")
    shares = {name: _share([change[name] for change in changes]) for name in changes[0]}
    merged = {name: shares[name] * torch.stack([change[name] for change in changes]).mean(0) for name in shares}
    return moved(require_base(states, base), states, merged)


def _share(changes: Sequence[Tensor]) -> float:
    cosines = []
    for one, other in combinations(changes, 2):
        lengths = float(one.norm() * other.norm())
        cosines.append(float((one * other).sum()) / lengths if lengths > 0 else 0.0)
    cosine = max(0.0, sum(cosines) / len(cosines))
    return len(changes) * cosine / (1 + (len(changes) - 1) * cosine)


class ModelStock:
    """The centre of the fine-tuned weights as few of them tell it.

    Args:
        repair: auto re-estimates BatchNorm's statistics; units also rescales the layers without; none leaves the averaged ones.
        check_origin: refuse networks that were not trained from the base.
    """

    def __init__(self, repair: Repair = "auto", check_origin: bool = True):
        self.repair: Repair = repair
        self.check_origin = check_origin

    def merge(self, sources: Sequence[Parent], calibration: Calibration | None = None, base: nn.Module | None = None) -> Merged:
        opening = opened(CARD, sources, calibration, base, self.check_origin)
        return finished(opening, model_stock(opening.states, opening.base), self.repair)
