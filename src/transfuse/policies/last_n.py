"""Fine-tuning of the last layer groups: what is near the head learns, what is near the input stays."""

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge

from transfuse.core.policy import Group, Phase, Rate, always
from transfuse.errors import RecipeError


class LastN:
    """The head and the groups before it learn.

    Args:
        n: groups before the head that are trained, too; `transfuse check` lists the groups of a network.
    """

    def __init__(self, n: Annotated[int, Ge(1)] = 1):
        self.n = n

    def phases(self, groups: Sequence[Group]) -> list[Phase]:
        """
        Raises:
            RecipeError: the network has fewer groups.
        """
        if self.n >= len(groups):
            what = f"the network has {len(groups) - 1} groups before its head: {listed(groups[:-1])}"
            raise RecipeError(what, where="policy.last_n.n", fix="give a smaller n, or policy: full")
        trained = groups[len(groups) - 1 - self.n :]
        return [Phase("", 1.0, tuple(Rate(group.name, group.parameters, always(1.0)) for group in trained))]


def listed(groups: Sequence[Group], most: int = 12) -> str:
    """Names of groups, the last ones where there are many."""
    names = [group.name for group in groups]
    return ", ".join(names) if len(names) <= most else f"..., {', '.join(names[-most:])}"
