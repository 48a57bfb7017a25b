"""What feature objectives share: the step's tapped features in pairs, in the forms that the formulas are written in."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.bridges import kind_of, require_pairs
from transfuse.core.types import Step

SHORTEST = 1e-6  # a vector that is shorter is left as it is: blown up to unit length, its gradient would swamp all others


def pairs(step: Step) -> list[tuple[Tensor, Tensor]]:
    """The student's and the teacher's features, in the recipe's order.

    Raises:
        ModelError: nothing is tapped, or not as much in both.
    """
    require_pairs(step.student.features, step.teacher.features)
    return list(zip(step.student.features.values(), step.teacher.features.values(), strict=True))


def bridged(bridges: nn.ModuleList, step: Step) -> list[tuple[Tensor, Tensor]]:
    """The pairs after their bridges: of one shape.

    Raises:
        ValueError: `build` was not called, or for other taps.
    """
    found = pairs(step)
    if len(bridges) != len(found):
        raise ValueError(f"{len(bridges)} bridges for {len(found)} pairs of features; call build(student_shapes, teacher_shapes) first")
    return [bridge(student, teacher) for bridge, (student, teacher) in zip(bridges, found, strict=True)]


def total(loss: Callable[[Tensor, Tensor], Tensor], found: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Sum of a loss over pairs of features."""
    return torch.stack([loss(student, teacher) for student, teacher in found]).sum(0)


def require_same_shape(student_features: Tensor, teacher_features: Tensor) -> None:
    """
    Raises:
        ValueError: the shapes differ; torch would broadcast some of them in silence.
    """
    if student_features.shape != teacher_features.shape:
        shapes = f"{list(student_features.shape)} and {list(teacher_features.shape)}"
        raise ValueError(f"features of shape {shapes} can't be compared entry by entry; bring the student's to the teacher's shape first")


def channel_rows(feature: Tensor) -> Float[Tensor, "batch channels positions"]:
    """Maps or tokens as one row of positions per channel.

    Raises:
        ValueError: vectors, which have no positions.
    """
    kind = kind_of(feature.shape)
    if kind == "vectors":
        raise ValueError(f"a feature of shape {list(feature.shape)} has no positions; tap a layer before the pooling")
    return feature.flatten(2) if kind == "maps" else feature.transpose(1, 2)


def unit_length(values: Tensor, dim: int = -1) -> Tensor:
    """Values divided by their Euclidean length along a dimension; a vector shorter than `SHORTEST` stays as it is, its gradient too."""
    length = torch.linalg.vector_norm(values, dim=dim, keepdim=True)
    return values / torch.where(length > SHORTEST, length, 1.0)
