"""What objectives ask teachers. Training, filling a cache before it and refusals must agree on it, or answers are stored in vain."""

from __future__ import annotations

from collections.abc import Sequence

from transfuse.core.types import WeightedObjective

Asked = dict[str, tuple[str, ...]]
"""Teachers by name, each with the paths of the features that it answers with, beside its logits."""


def asked_of(objectives: Sequence[WeightedObjective]) -> Asked:
    """The teachers that these objectives ask, with all that is tapped of each."""
    found: Asked = {}
    for weighted in objectives:
        for name in weighted.teachers:
            found[name] = tuple(dict.fromkeys((*found.get(name, ()), *weighted.taps_of(name))))
    return found


def of_two_views(objectives: Sequence[WeightedObjective]) -> list[WeightedObjective]:
    """Those of them that compare two views of a sample: they alone ask about the second."""
    return [weighted for weighted in objectives if "two_views" in weighted.card.needs]


def never_kept(objectives: Sequence[WeightedObjective]) -> set[str]:
    """Teachers that are asked about turned pictures alone, live in every step: of them nothing is stored, missed or given room."""
    turned, upright = set[str](), set[str]()
    for weighted in objectives:
        (turned if "rotations" in weighted.card.needs else upright).update(weighted.teachers)
    return turned - upright
