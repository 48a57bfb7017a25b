"""What an objective asks for before the ordinary training: parts of it that are prepared on the teacher, or a first stage of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

Kind = Literal["prepare", "first"]


@dataclass(frozen=True)
class Stage:
    """One stage; an objective declares them with a method `stages() -> Sequence[Stage]`.

    - prepare: `parts` of the objective are trained by its method `prepare(step)`, which looks at the teachers alone, while the student
      waits; from then on they stay as they are. It takes steps beside the student's own.
    - first: the student learns from this objective alone, and from the others without it afterwards. These steps are the student's own.

    Attributes:
        kind: prepare or first.
        share: how many steps, as a share of the student's.
        parts: names of the objective's submodules that are prepared.
    """

    kind: Kind
    share: float
    parts: tuple[str, ...] = ()


def stages_of(objective: nn.Module) -> tuple[Stage, ...]:
    """What an objective declares; most declare nothing."""
    declared = getattr(objective, "stages", None)
    return tuple(declared()) if declared is not None else ()  # type: ignore[operator]


def prepared_parts(objective: nn.Module) -> list[nn.Module]:
    """The submodules that a stage prepares and that later stages leave as they are."""
    return [objective.get_submodule(name) for stage in stages_of(objective) if stage.kind == "prepare" for name in stage.parts]
