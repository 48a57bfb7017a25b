"""What objectives on features of several teachers share."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from transfuse.core.bridges import Shape, channels_of
from transfuse.core.types import Step
from transfuse.objectives._vectors import last_tap, vectors


def width_of(shape: Shape) -> int:
    """Numbers per sample of a feature once it is averaged over positions.

    Raises:
        ModelError: it is no vector, tokens or maps.
    """
    return channels_of(shape)


def features_of(step: Step, count: int) -> list[Float[Tensor, "batch _"]]:
    """Every teacher's last tapped feature as vectors, detached, in the recipe's order.

    Raises:
        ValueError: `build` was not called, or for another number of teachers.
    """
    if len(step.teachers) != count:
        what = f"built for {count} teachers, the step has {len(step.teachers)}"
        raise ValueError(f"{what}; call build(student_shapes, teacher_shapes) with shapes by TEACHER:PATH first")
    return [vectors(last_tap(signals, "teacher")).detach() for signals in step.teachers.values()]
