"""LP-FT: a linear probe first, then everything from the probe's head on, slowly."""

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Gt, Le, Lt

from transfuse.core.policy import Group, Phase, Rate, always

PROBE = "probe"


class LpFt:
    """The head is trained on frozen features; then all layers are trained from there (Kumar et al., 2022, ICLR, https://arxiv.org/abs/2202.10054).

    A new head's random weights would distort the features with their first gradients; a trained one doesn't. Both parts have a
    learning-rate schedule of their own. The paper fits the probe to convergence by logistic regression; here it takes a share of the steps,
    which on remembered features cost next to nothing, so that control and student have the same number of steps.

    Args:
        share: of the steps, for the probe.
        rate: multiplier of the learning rate while everything is trained.
    """

    def __init__(self, share: Annotated[float, Gt(0), Lt(1)] = 0.3, rate: Annotated[float, Gt(0), Le(1)] = 0.1):
        self.share, self.rate = share, rate

    def phases(self, groups: Sequence[Group]) -> list[Phase]:
        head = groups[-1]
        alone = Phase(PROBE, self.share, (Rate(head.name, head.parameters, always(1.0)),), head_alone=True)
        return [alone, Phase("", 1 - self.share, tuple(Rate(group.name, group.parameters, always(self.rate)) for group in groups))]
