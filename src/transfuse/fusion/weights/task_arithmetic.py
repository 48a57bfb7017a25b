"""Task arithmetic: what each fine-tuning changed is added to the weights that all of them began with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from transfuse.fusion.states import State, differences, moved, require_base
from transfuse.fusion.types import Calibration, MergeCard, Merged, Parent, Repair
from transfuse.fusion.weights._assembly import finished, opened

CARD = MergeCard(
    title="Task arithmetic",
    paper="Ilharco et al., 2023, ICLR",
    link="https://arxiv.org/abs/2212.04089",
    needs=("same_shapes", "shared_origin", "base"),
)


def task_arithmetic(states: Sequence[State], base: State | None = None, scaling: float = 0.3) -> dict[str, Tensor]:
    """w = w_0 + scaling sum_i (w_i - w_0). With scaling 1/n it is the mean.

    The default is the paper's where the factor is not searched for: 0.3, for eight tasks.

    Raises:
        ModelError: there is no base; names or shapes differ.
    """
    changes = differences(states, base)
    total = {name: scaling * torch.stack([change[name] for change in changes]).sum(0) for name in changes[0]}
    return moved(require_base(states, base), states, total)


class TaskArithmetic:
    """The sum of all task vectors, scaled, on top of the base.

    Args:
        scaling: of the sum; 1/n makes it the mean, the paper uses 0.3 for eight tasks.
        repair: auto re-estimates BatchNorm's statistics; units also rescales the layers without; none leaves the averaged ones.
        check_origin: refuse networks that were not trained from the base.
    """

    def __init__(self, scaling: float = 0.3, repair: Repair = "auto", check_origin: bool = True):
        self.scaling = scaling
        self.repair: Repair = repair
        self.check_origin = check_origin

    def merge(self, sources: Sequence[Parent], calibration: Calibration | None = None, base: nn.Module | None = None) -> Merged:
        opening = opened(CARD, sources, calibration, base, self.check_origin)
        return finished(opening, task_arithmetic(opening.states, opening.base, self.scaling), self.repair)
