"""Common feature learning: student and teachers are brought into one space, where they have the same distribution."""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.bridges import Shape
from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32
from transfuse.core.ranks import gather_rows
from transfuse.core.types import Step
from transfuse.objectives._vectors import last_tap, unit, vectors
from transfuse.objectives.domains.mmd import mmd_loss
from transfuse.objectives.features._teachers import features_of, width_of

CARD = Card(
    title="Common feature learning (CFL)",
    paper="Luo, Wang, Fang, Hu, Tao, Song, 2019, IJCAI",
    link="https://arxiv.org/abs/1906.10546",
    level="batch",
    needs=("teacher.features", "student.features"),
    paper_weight=1.0,
    tasks=("classification", "multilabel", "regression"),
    cost="a few linear layers and five kernels over all pairs of the batch per teacher",
    teachers="several",
)


def common_features_loss(
    student_common: Float[Tensor, "batch width"],
    teachers_common: Sequence[Float[Tensor, "batch width"]],
    teachers_features: Sequence[Float[Tensor, "batch _"]],
    teachers_rebuilt: Sequence[Float[Tensor, "batch _"]],
    reconstruction: float = 1.0,
    mean_squares: Sequence[Float[Tensor, ""]] | None = None,
) -> Float[Tensor, ""]:
    """Mean over teachers k of MMD^2(s, h_k) + reconstruction * mean (f_k - f'_k)^2.

    s and h_k are student and teacher k in the common space, at unit length; f'_k is teacher k's feature f_k rebuilt from h_k, which keeps
    the common space from being empty. MMD^2 is the biased estimate over the batch, as in `mmd`, with widths 2^-3 .. 2 of the batch's mean
    squared distance, which is held fixed, or given per teacher. Features f_k are taken at unit length times the root of their width, so
    that teachers of any scale count alike.

    Deviations: the paper's implementation sums over teachers and uses Gaussian kernels of fixed widths (0.001 to 2); it transforms maps
    position by position with residual blocks, here features are averaged over positions and transformed by two linear layers.

    Raises:
        ValueError: no teacher.
    """
    if not teachers_common:
        raise ValueError("common features need at least one teacher, and the step has none")
    student = unit(student_common)
    values = []
    for place, (common, feature, rebuilt) in enumerate(zip(teachers_common, teachers_features, teachers_rebuilt, strict=True)):
        both = torch.cat([student, unit(common)])
        sides = (torch.arange(len(both), device=both.device) >= len(student)).long()
        mean_square = None if mean_squares is None else mean_squares[place]
        values.append(mmd_loss(both, sides, "biased", mean_square) + reconstruction * (feature - rebuilt).square().mean())
    return torch.stack(values).mean()


class CommonFeatures(nn.Module):
    """Student and several teachers in one common space, within the batch of all processes.

    The last tapped feature of every network counts: what its last layer is given, unless taps are named.

    Args:
        width: of the common space.
        reconstruction: weight of the teachers' features being rebuilt from it.
    """

    def __init__(self, width: Annotated[int, Ge(1)] = 128, reconstruction: Annotated[float, Ge(0)] = 1.0):
        super().__init__()
        self.width, self.reconstruction = width, reconstruction
        self.of_student: nn.Module = nn.Identity()
        self.of_teachers, self.rebuild = nn.ModuleList(), nn.ModuleList()

    def build(self, student_shapes: dict[str, Shape], teacher_shapes: dict[str, Shape]) -> None:
        """
        Args:
            student_shapes: by path.
            teacher_shapes: by TEACHER:PATH.

        Raises:
            ModelError: a feature that is no vector, tokens or maps.
        """
        widths = [width_of(shape) for shape in last_of_each(teacher_shapes).values()]
        self.of_student = _layers(width_of(list(student_shapes.values())[-1]), self.width)
        self.of_teachers = nn.ModuleList([_layers(width, self.width) for width in widths])
        self.rebuild = nn.ModuleList([_layers(self.width, width) for width in widths])

    def forward(self, step: Step) -> Tensor:
        teachers = [_scaled(feature) for feature in features_of(step, len(self.of_teachers))]
        common = [layers(feature) for layers, feature in zip(self.of_teachers, teachers, strict=True)]
        rebuilt = [layers(own) for layers, own in zip(self.rebuild, common, strict=True)]
        student = self.of_student(vectors(last_tap(step.student, "student")))
        common, teachers, rebuilt = ([gather_rows(rows) for rows in group] for group in (common, teachers, rebuilt))
        return common_features_loss(gather_rows(student), common, teachers, rebuilt, self.reconstruction)


def last_of_each(teacher_shapes: dict[str, Shape]) -> dict[str, Shape]:
    """Teacher -> shape of the last of its tapped features."""
    return {path.partition(":")[0]: shape for path, shape in teacher_shapes.items()}


def _layers(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU(), nn.Linear(outputs, outputs))


def _scaled(feature: Float[Tensor, "batch width"]) -> Float[Tensor, "batch width"]:
    return unit(at_least_fp32(feature)) * feature.shape[1] ** 0.5
