"""Activation boundaries: a neuron of the student is to be active where the teacher's is, by a margin."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Lt
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.bridges import Shape, make_bridges
from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32
from transfuse.core.stages import Stage
from transfuse.core.types import Step
from transfuse.objectives.features._first import When, first_stage
from transfuse.objectives.features._pairs import bridged, require_same_shape

CARD = Card(
    title="Activation boundaries (AB)",
    paper="Heo, Lee, Yun, Choi, 2019, AAAI",
    link="https://arxiv.org/abs/1811.03233",
    level="sample",
    needs=("teacher.features",),
    paper_weight=3e-3,
    tasks=("classification", "multilabel", "regression"),
    cost="a 1x1 convolution and BatchNorm per pair of taps; the teacher's features on disk; a first stage of the student's own steps",
)


def ab_loss(
    student_features: Float[Tensor, "batch *shape"], teacher_features: Float[Tensor, "batch *teacher_shape"], margin: float = 1.0
) -> Float[Tensor, "batch"]:
    """Squared hinge on the sign of features before a ReLU, summed over entries, per sample.

    Where t > 0: max(0, margin - s)^2; where t <= 0: max(0, margin + s)^2. How large t is doesn't matter.

    Raises:
        ValueError: the shapes differ.
    """
    require_same_shape(student_features, teacher_features)
    student = at_least_fp32(student_features)
    sign = torch.where(teacher_features.detach() > 0, 1.0, -1.0).to(student.dtype)
    return (margin - sign * student).clamp(min=0).square().flatten(1).sum(1)


class AB(nn.Module):
    """Signs of one teacher's features before its ReLUs; a pair of taps weighs half of the next one, the last weighs 1.

    Tap the input of an activation: `layer1.2.relu@input`; behind a ReLU a feature is nowhere negative. The student learns the boundaries
    first, from this term alone, and then the task without it, as in the paper and its code (github.com/bhheo/AB_distillation); each stage
    has the recipe's learning-rate schedule from its beginning, and an optimiser of its own. In the comparisons of Tian et al. (2020) the
    first stage lasts 30 epochs and the second 240. `paper_weight` is that of the authors' code (3 / 1000). As in those comparisons there is
    a 1x1 convolution with BatchNorm behind every tap of the student, so that a network is compared with another one of its own widths as
    with any other; the authors leave it out where the channels agree (`bridge: channels_differ`).

    Args:
        margin: how far from 0 a student's response has to be.
        when: first is the paper's; together adds the term to the others throughout.
        share: of the student's steps that the first stage takes.
        bridge: always, as in comparisons, or only where the numbers of channels differ, as in the authors' code.
    """

    def __init__(
        self,
        margin: Annotated[float, Ge(0)] = 1.0,
        when: When = "first",
        share: Annotated[float, Gt(0), Lt(1)] = round(30 / 270, 3),
        bridge: Literal["always", "channels_differ"] = "always",
    ):
        super().__init__()
        self.margin, self.share, self.bridge = margin, share, bridge
        self.when: When = when
        self.bridges = nn.ModuleList()

    def stages(self) -> Sequence[Stage]:
        return first_stage(self.when, self.share)

    def build(self, student_shapes: dict[str, Shape], teacher_shapes: dict[str, Shape]) -> None:
        self.bridges = make_bridges(student_shapes, teacher_shapes, norm=True, always=self.bridge == "always")

    def forward(self, step: Step) -> Tensor:
        found = bridged(self.bridges, step)
        last = len(found) - 1
        values = [ab_loss(student, teacher, self.margin) / 2 ** (last - number) for number, (student, teacher) in enumerate(found)]
        return torch.stack(values).sum(0)
