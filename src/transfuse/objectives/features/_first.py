"""Terms that a student learns first and alone: what their two forms are called."""

from typing import Literal

from transfuse.core.stages import Stage

When = Literal["first", "together"]


def first_stage(when: When, share: float) -> tuple[Stage, ...]:
    """The stage that such a term asks for; none where it is learnt together with the others."""
    return (Stage("first", share),) if when == "first" else ()
