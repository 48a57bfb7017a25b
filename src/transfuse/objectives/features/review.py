"""Knowledge review: each stage of the teacher is taught to all stages of the student up to it, fused from the deepest outwards."""

from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.bridges import AttentionFusion, Shape, averaged, channels_of, kind_of, require_pairs
from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32
from transfuse.core.types import Step
from transfuse.errors import ModelError
from transfuse.objectives.features._pairs import pairs, require_same_shape

CARD = Card(
    title="Knowledge review (ReviewKD)",
    paper="Chen, Liu, Zhao, Jia, 2021, CVPR",
    link="https://arxiv.org/abs/2104.09044",
    level="sample",
    needs=("teacher.features",),
    paper_weight=1.0,
    tasks=("classification", "multilabel", "regression"),
    cost="a 1x1 and a 3x3 convolution per stage, up to 512 channels wide: often more than the student; the teacher's features on disk",
)
LEVELS = (4, 2, 1)  # sides of the pooled maps, each with half of the weight of the one before


def review_loss(
    student_features: Float[Tensor, "batch channels height width"], teacher_features: Float[Tensor, "batch teacher_channels rows columns"]
) -> Float[Tensor, "batch"]:
    """Hierarchical context loss of two maps of one shape, per sample.

    mean (s - t)^2 over entries, plus the same of both maps pooled to 4x4, 2x2 and 1x1 (those that are smaller than the map) with weights
    1/2, 1/4, 1/8, divided by the sum of the weights.

    Raises:
        ValueError: the shapes differ.
    """
    require_same_shape(student_features, teacher_features)
    student, teacher = at_least_fp32(student_features), at_least_fp32(teacher_features.detach())
    value, weight, weights = (student - teacher).square().flatten(1).mean(1), 1.0, 1.0
    for side in LEVELS:
        if side < min(student.shape[2:]):
            weight, weights = weight / 2, weights + weight / 2
            # pooling is linear: the difference is pooled once instead of both maps
            value = value + weight * averaged(student - teacher, (side, side)).square().flatten(1).mean(1)
    return value / weights


class Review(nn.Module):
    """Stages of one teacher, from fused stages of the student; summed over pairs of taps.

    Taps go from early stages to late ones; the pooled feature before the last layer may be the last of them (it counts as a 1x1 map), as
    in the authors' code. Their weights are 1 for ImageNet (`paper_weight`) and 0.6 to 8 for CIFAR, reached over the first 20 epochs.

    Args:
        width: most channels of the fused feature; the deepest student feature's, if it has fewer.
    """

    def __init__(self, width: Annotated[int, Ge(1)] = 512):
        super().__init__()
        self.width = width
        self.fusions = nn.ModuleList()

    def build(self, student_shapes: dict[str, Shape], teacher_shapes: dict[str, Shape]) -> None:
        require_pairs(student_shapes, teacher_shapes)
        for path, shape in {**student_shapes, **teacher_shapes}.items():
            if kind_of(shape) == "tokens":
                raise ModelError(f"review fuses maps of stages, and '{path}' gives tokens of shape {list(shape)}", fix="use fitnet or cwd")
        inputs, outputs = list(student_shapes.values()), list(teacher_shapes.values())
        middle = min(self.width, channels_of(inputs[-1]))
        last = len(inputs) - 1
        stages = zip(inputs, outputs, strict=True)
        self.fusions = nn.ModuleList(
            AttentionFusion(channels_of(one), middle, channels_of(other), fuse=number < last) for number, (one, other) in enumerate(stages)
        )

    def forward(self, step: Step) -> Tensor:
        values, deeper = [], None
        found = [(_as_map(student), _as_map(teacher.detach())) for student, teacher in pairs(step)]
        for fusion, (student, teacher) in reversed(list(zip(self.fusions, found, strict=True))):
            student, deeper = fusion(student, deeper, (teacher.shape[2], teacher.shape[3]))
            values.append(review_loss(student, teacher))
        return torch.stack(values).sum(0)


def _as_map(feature: Tensor) -> Tensor:
    feature = at_least_fp32(feature)
    return feature[:, :, None, None] if feature.ndim == 2 else feature
