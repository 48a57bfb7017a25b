"""Gradual unfreezing: the head learns first, then one layer group after another from the head towards the input."""

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Gt, Le

from transfuse.core.policy import Group, Phase, Rate, from_then_on


class Gradual:
    """At even intervals the next group begins to learn (Howard and Ruder, 2018, ACL, https://arxiv.org/abs/1801.06146).

    With L groups before the head, the k-th one counted from it is trained from progress until * k / L on. The paper unfreezes one group per
    epoch, whatever the number of groups; here it is a share of the training, so that any network is unfrozen in time. What is unfrozen is
    a function of the progress alone: a run that is resumed in the middle goes on with the same groups.

    Args:
        until: share of the training after which everything is trained.
        decay: multiplier of the learning rate from one group to the next one towards the input; the paper's is 1 / 2.6.
    """

    def __init__(self, until: Annotated[float, Gt(0), Le(1)] = 0.5, decay: Annotated[float, Gt(0), Le(1)] = 1.0):
        self.until, self.decay = until, decay

    def phases(self, groups: Sequence[Group]) -> list[Phase]:
        last = len(groups) - 1
        rates = [
            Rate(group.name, group.parameters, from_then_on(self.until * distance / max(last, 1), self.decay**distance))
            for distance, group in zip(range(last, -1, -1), groups, strict=True)
        ]
        return [Phase("", 1.0, tuple(rates))]
