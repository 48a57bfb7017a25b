"""Full fine-tuning: everything is trained from the first step on."""

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Gt

from transfuse.core.policy import Group, Phase, Rate, always


class Full:
    """All layers learn; the head faster than the rest where asked.

    Args:
        backbone: multiplier of the learning rate of all but the head; 0.1 is common where the head is new.
    """

    def __init__(self, backbone: Annotated[float, Gt(0)] = 1.0):
        self.backbone = backbone

    def phases(self, groups: Sequence[Group]) -> list[Phase]:
        rates = [Rate(group.name, group.parameters, always(self.backbone)) for group in groups[:-1]]
        return [Phase("", 1.0, (*rates, Rate(groups[-1].name, groups[-1].parameters, always(1.0))))]
