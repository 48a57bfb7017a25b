"""Flow of the solution procedure: how features of one layer go together with those of a later one."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Gt, Lt
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.bridges import as_maps, resized
from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32
from transfuse.core.stages import Stage
from transfuse.core.types import Step
from transfuse.objectives.features._first import When, first_stage
from transfuse.objectives.features._pairs import pairs

CARD = Card(
    title="Flow of solution procedure (FSP)",
    paper="Yim, Joo, Bae, Kim, 2017, CVPR",
    link="https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html",
    level="sample",
    needs=("teacher.features",),
    paper_weight=1.0,
    tasks=("classification", "multilabel", "regression"),
    cost="one product of channels by channels per two taps and model; the teacher's features on disk; a stage of the student's own steps",
)

Pooling = Literal["max", "mean"]
Over = Literal["mean", "sum"]


def fsp_loss(
    student_features: Sequence[Float[Tensor, "batch ..."]],
    teacher_features: Sequence[Float[Tensor, "batch ..."]],
    pooling: Pooling = "max",
    over: Over = "mean",
) -> Float[Tensor, "batch"]:
    """Squared difference of FSP matrices, per sample, summed over neighbouring taps.

    G_ab = 1 / (h w) sum_positions f_a g_b for the channels a of one tap and b of the next, whose larger map is pooled to the smaller
    (the paper pools by maximum). Value: mean_ab (G^s_ab - G^t_ab)^2, or the sum as in the paper; the mean is the default, as in the
    comparisons of Tian et al. (2020).

    Raises:
        ValueError: fewer than two taps, or student and teacher differ in the channels of a tap: FSP matrices then differ in shape.
        ModelError: a feature has no positions.
    """
    if len(student_features) < 2 or len(student_features) != len(teacher_features):
        counts = f"{len(student_features)} and {len(teacher_features)}"
        raise ValueError(f"FSP matrices lie between two taps of a model; there are {counts}: give at least two of each")
    values = []
    for number in range(len(student_features) - 1):
        student = _flow(student_features[number], student_features[number + 1], pooling)
        teacher = _flow(teacher_features[number].detach(), teacher_features[number + 1].detach(), pooling)
        if student.shape != teacher.shape:
            shapes = f"{list(student.shape[1:])} and {list(teacher.shape[1:])}"
            raise ValueError(f"FSP matrices of shape {shapes} can't be compared: tap layers of the same numbers of channels")
        squares = (student - teacher).square()
        values.append(squares.mean((1, 2)) if over == "mean" else squares.sum((1, 2)))
    return torch.stack(values).sum(0)


def _flow(first: Tensor, second: Tensor, pooling: Pooling) -> Float[Tensor, "batch first_channels second_channels"]:
    first, second = at_least_fp32(first), at_least_fp32(second)
    first, second = as_maps(first, second), as_maps(second, first)
    size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
    first, second = (_pooled(maps, size, pooling).flatten(2) for maps in (first, second))
    return torch.bmm(first, second.mT) / first.shape[2]


def _pooled(maps: Tensor, size: tuple[int, int], pooling: Pooling) -> Tensor:
    if tuple(maps.shape[2:]) == size:
        return maps
    return F.adaptive_max_pool2d(maps, size) if pooling == "max" else resized(maps, size)


class FSP(nn.Module):
    """FSP matrices of one teacher, between each tap and the next.

    The numbers of channels must agree. The student learns the matrices first, from this term alone, and then the task without it, as in
    the paper (21,000 and 64,000 steps); each stage has the recipe's learning-rate schedule from its beginning, and an optimiser of its
    own. The paper's first stage has a hundredth of the second one's learning rate; here both have the recipe's, as in the code of Tian et
    al. (2020). The weight of 50 that comparisons quote has no effect in that code, whose second stage leaves the term out.

    Args:
        pooling: how the larger of two maps is brought to the smaller: max, as in the paper, or mean.
        over: mean or sum over the entries of a matrix.
        when: first is the paper's; together adds the term to the others throughout.
        share: of the student's steps that the first stage takes.
    """

    def __init__(
        self,
        pooling: Pooling = "max",
        over: Over = "mean",
        when: When = "first",
        share: Annotated[float, Gt(0), Lt(1)] = 0.25,
    ):
        super().__init__()
        self.pooling: Pooling = pooling
        self.over: Over = over
        self.when: When = when
        self.share = share

    def stages(self) -> Sequence[Stage]:
        return first_stage(self.when, self.share)

    def forward(self, step: Step) -> Tensor:
        students, teachers = zip(*pairs(step), strict=True)
        return fsp_loss(students, teachers, self.pooling, self.over)
