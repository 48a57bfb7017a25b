"""Variational information distillation: the teacher's feature is to be predictable from the student's, channel by channel."""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Gt
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.bridges import Bridge, Shape, kind_of, make_bridges
from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32
from transfuse.core.types import Step
from transfuse.objectives.features._pairs import bridged, require_same_shape

CARD = Card(
    title="Variational information distillation (VID)",
    paper="Ahn, Hu, Damianou, Lawrence, Dai, 2019, CVPR",
    link="https://arxiv.org/abs/1904.05835",
    level="sample",
    needs=("teacher.features",),
    paper_weight=1.0,
    tasks=("classification", "multilabel", "regression"),
    cost="three 1x1 convolutions per pair of taps; the teacher's features on disk",
)
SMALLEST_VARIANCE = 1e-5


def vid_loss(
    student_features: Float[Tensor, "batch *shape"],
    teacher_features: Float[Tensor, "batch *teacher_shape"],
    variances: Float[Tensor, "channels"],
) -> Float[Tensor, "batch"]:
    """Negative log-likelihood of the teacher's feature under a Gaussian around the student's prediction, per sample, without log(2 pi) / 2.

    1/2 mean [(t - m)^2 / v_c + log v_c] over channels and positions, with m the prediction of shape t. It can be negative.

    Raises:
        ValueError: prediction and teacher differ in shape.
    """
    require_same_shape(student_features, teacher_features)
    student, teacher = at_least_fp32(student_features), at_least_fp32(teacher_features.detach())
    variances = at_least_fp32(variances)
    if kind_of(student.shape) == "maps":
        variances = variances[:, None, None]
    return 0.5 * ((teacher - student).square() / variances + variances.log()).flatten(1).mean(1)


class VID(nn.Module):
    """Predictions of one teacher's features with a trained variance per channel, summed over pairs of taps.

    The prediction is three 1x1 convolutions with ReLUs between them, as in Tian et al. (2020); the paper adds BatchNorm for some pairs.

    Args:
        initial_variance: of every channel; 5 in the authors' code.
    """

    def __init__(self, initial_variance: Annotated[float, Gt(1e-5)] = 5.0):
        super().__init__()
        self.initial_variance = initial_variance
        self.bridges, self.heads = nn.ModuleList(), nn.ModuleList()
        self.spreads = nn.ParameterList()

    def build(self, student_shapes: dict[str, Shape], teacher_shapes: dict[str, Shape]) -> None:
        self.bridges = make_bridges(student_shapes, teacher_shapes)
        self.heads, self.spreads = nn.ModuleList(), nn.ParameterList()
        start = math.log(math.expm1(self.initial_variance - SMALLEST_VARIANCE))  # softplus takes it back
        for bridge in self.bridges:
            assert isinstance(bridge, Bridge)
            layer = bridge.project
            if isinstance(layer, nn.Conv2d):
                channels = layer.out_channels
                rest: list[nn.Module] = [nn.Conv2d(channels, channels, 1) for _ in range(2)]
            else:
                assert isinstance(layer, nn.Linear)
                channels = layer.out_features
                rest = [nn.Linear(channels, channels) for _ in range(2)]
            self.heads.append(nn.Sequential(nn.ReLU(), rest[0], nn.ReLU(), rest[1]))
            self.spreads.append(nn.Parameter(torch.full((channels,), start)))

    def variances(self) -> list[Tensor]:
        """The variance of every channel, per pair of taps."""
        return [F.softplus(spread) + SMALLEST_VARIANCE for spread in self.spreads]

    def forward(self, step: Step) -> Tensor:
        found = zip(self.heads, bridged(self.bridges, step), self.variances(), strict=True)
        return torch.stack([vid_loss(head(student), teacher, variance) for head, (student, teacher), variance in found]).sum(0)
