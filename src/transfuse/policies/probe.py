"""Linear probing: the head alone is trained, on features of the frozen network."""

from collections.abc import Sequence

from transfuse.core.policy import Group, Phase, Rate, always


class Probe:
    """The backbone stays as it is, in eval mode; its features are computed once and remembered where views repeat."""

    def phases(self, groups: Sequence[Group]) -> list[Phase]:
        return [Phase("", 1.0, (Rate(groups[-1].name, groups[-1].parameters, always(1.0)),), head_alone=True)]
