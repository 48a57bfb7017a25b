"""Layer-decayed (discriminative) learning rates: the nearer to the input, the slower a layer learns."""

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Gt, Le

from transfuse.core.policy import Group, Phase, Rate, always


class LayerDecay:
    """Learning rate of the group at distance d from the head: lr * decay^d.

    As in Clark et al. (2020, ICLR, https://arxiv.org/abs/2003.10555) and timm; Howard and Ruder (2018) call it discriminative fine-tuning.

    Args:
        decay: timm's usual one for large vision transformers is 0.75; 1 / 2.6 is Howard and Ruder's.
    """

    def __init__(self, decay: Annotated[float, Gt(0), Le(1)] = 0.75):
        self.decay = decay

    def phases(self, groups: Sequence[Group]) -> list[Phase]:
        last = len(groups) - 1
        rates = [Rate(group.name, group.parameters, always(self.decay ** (last - number))) for number, group in enumerate(groups)]
        return [Phase("", 1.0, tuple(rates))]
