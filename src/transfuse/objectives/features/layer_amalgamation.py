"""Layer-wise amalgamation: the teachers' features are compressed into one, which the student's is to equal."""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.bridges import Shape
from transfuse.core.card import Card
from transfuse.core.types import Step
from transfuse.objectives._vectors import last_tap, unit, vectors
from transfuse.objectives.features._teachers import features_of, width_of
from transfuse.objectives.features.common_features import last_of_each

CARD = Card(
    title="Layer-wise amalgamation of features",
    paper="Shen, Wang, Song, Sun, Song, 2019, AAAI",
    link="https://arxiv.org/abs/1811.02796",
    level="sample",
    needs=("teacher.features", "student.features"),
    paper_weight=1.0,
    tasks=("classification", "multilabel", "regression"),
    cost="two linear layers over all teachers' numbers and one of the student's",
    teachers="several",
)


def layer_amalgamation_loss(
    student_features: Float[Tensor, "batch width"],
    code: Float[Tensor, "batch width"],
    teachers_features: Sequence[Float[Tensor, "batch _"]],
    teachers_rebuilt: Sequence[Float[Tensor, "batch _"]],
    reconstruction: float = 1.0,
) -> Float[Tensor, "batch"]:
    """mean_e (s_e - c_e)^2 + reconstruction * mean over teachers k of mean_e (f_ke - f'_ke)^2, per sample.

    c is the code of all teachers' features side by side, detached in the first term, s the student's feature after a linear layer, and
    f'_k teacher k's feature f_k rebuilt from the code.

    Deviations: the paper learns the code in a stage of its own and the student's layers block by block afterwards; here all are terms of
    one loss, as in the authors' later code. Maps are averaged over positions. Teachers' features are taken at unit length times the root of
    their width.
    """
    learnt = (student_features - code.detach()).square().mean(1)
    errors = [(feature - rebuilt).square().mean(1) for feature, rebuilt in zip(teachers_features, teachers_rebuilt, strict=True)]
    return learnt + reconstruction * torch.stack(errors).mean(0)


class LayerAmalgamation(nn.Module):
    """The student's feature equals a code of several teachers' features, from which they can be rebuilt.

    For several levels name it once for each, with student_tap and teacher_tap.

    Args:
        width: of the code.
        reconstruction: weight of the teachers' features being rebuilt from it.
    """

    def __init__(self, width: Annotated[int, Ge(1)] = 128, reconstruction: Annotated[float, Ge(1e-6)] = 1.0):
        super().__init__()
        self.width, self.reconstruction = width, reconstruction
        self.of_student: nn.Module = nn.Identity()
        self.encode: nn.Module = nn.Identity()
        self.decode: nn.Module = nn.Identity()
        self.widths: list[int] = []

    def build(self, student_shapes: dict[str, Shape], teacher_shapes: dict[str, Shape]) -> None:
        """
        Args:
            student_shapes: by path.
            teacher_shapes: by TEACHER:PATH.

        Raises:
            ModelError: a feature that is no vector, tokens or maps.
        """
        self.widths = [width_of(shape) for shape in last_of_each(teacher_shapes).values()]
        self.of_student = nn.Linear(width_of(list(student_shapes.values())[-1]), self.width)
        self.encode, self.decode = nn.Linear(sum(self.widths), self.width), nn.Linear(self.width, sum(self.widths))

    def forward(self, step: Step) -> Tensor:
        teachers = [unit(feature) * feature.shape[1] ** 0.5 for feature in features_of(step, len(self.widths))]
        code = self.encode(torch.cat(teachers, 1))
        rebuilt = self.decode(code).split(self.widths, 1)
        student = self.of_student(vectors(last_tap(step.student, "student")))
        return layer_amalgamation_loss(student, code, teachers, rebuilt, self.reconstruction)
