"""Discriminative learning rates in two or more parts: slow at the input, fast at the head, in equal steps of the logarithm."""

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Gt, Le

from transfuse.core.policy import Group, Phase, Rate, always


class Discriminative:
    """Learning rates spread evenly on a logarithm from the first group to the head, as a slice of rates in fastai.

    Group g of L + 1 (stem 0, head L) learns with lr * first^(1 - g / L).

    Args:
        first: multiplier of the learning rate of the first group; the head has 1.
    """

    def __init__(self, first: Annotated[float, Gt(0), Le(1)] = 0.01):
        self.first = first

    def phases(self, groups: Sequence[Group]) -> list[Phase]:
        last = max(len(groups) - 1, 1)
        rates = [Rate(group.name, group.parameters, always(self.first ** (1 - number / last))) for number, group in enumerate(groups[:-1])]
        return [Phase("", 1.0, (*rates, Rate(groups[-1].name, groups[-1].parameters, always(1.0))))]
