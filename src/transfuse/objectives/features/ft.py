"""Factor transfer: the teacher's feature is paraphrased by an autoencoder, and the student learns to translate its own into that."""

from itertools import pairwise
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.bridges import Shape, as_maps, channels_of, kind_of, require_pairs, same_size
from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32
from transfuse.core.types import Step
from transfuse.errors import ModelError
from transfuse.objectives.features._pairs import pairs, unit_length

CARD = Card(
    title="Factor transfer (FT)",
    paper="Kim, Park, Kwak, 2018, NeurIPS",
    link="https://arxiv.org/abs/1802.04977",
    level="sample",
    needs=("teacher.features",),
    paper_weight=200.0,
    tasks=("classification", "multilabel", "regression"),
    cost="nine 3x3 convolutions of up to the teacher's width per pair of taps; the teacher runs live",
)

Norm = Literal[1, 2]


def ft_loss(
    student_features: Float[Tensor, "batch *student_shape"], teacher_features: Float[Tensor, "batch *teacher_shape"], norm: Norm = 1
) -> Float[Tensor, "batch"]:
    """Difference of two factors, each flattened and divided by its Euclidean length: mean |s - t|, or mean (s - t)^2, per sample.

    The mean over entries belongs to the weight of 200 that comparisons use (Tian et al., 2020); the paper sums. The larger maps are
    pooled to the smaller ones.

    Raises:
        ValueError: other numbers of channels.
    """
    student, teacher = same_size(student_features, teacher_features)
    if student.shape[1] != teacher.shape[1]:
        raise ValueError(f"factors of {student.shape[1]} and {teacher.shape[1]} channels can't be compared; translate the student's first")
    difference = unit_length(student.flatten(1)) - unit_length(teacher.flatten(1))
    return difference.abs().mean(1) if norm == 1 else difference.square().mean(1)


class FT(nn.Module):
    """Factors of one teacher, summed over pairs of taps.

    The paper trains the paraphraser first and keeps it as it is afterwards. Here it is trained along, by
    its reconstruction of the teacher's feature alone (no gradient of the transfer reaches it), and the transfer begins after `first`.

    Args:
        rate: channels of a factor, as a share of the teacher's.
        norm: 1 or 2: absolute or squared differences; 1 is the paper's best.
        first: share of the training in which only the paraphraser learns.
        reconstruction: weight of the paraphraser's own loss, relative to the transfer's; 1 / 200 makes it 1 at the paper's weight.
    """

    def __init__(
        self,
        rate: Annotated[float, Gt(0), Le(1)] = 0.5,
        norm: Norm = 1,
        first: Annotated[float, Ge(0), Lt(1)] = 0.1,
        reconstruction: Annotated[float, Gt(0)] = 0.005,
    ):
        super().__init__()
        self.rate = rate
        self.norm: Norm = norm
        self.first, self.reconstruction = first, reconstruction
        self.encoders, self.decoders, self.translators = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()

    def build(self, student_shapes: dict[str, Shape], teacher_shapes: dict[str, Shape]) -> None:
        require_pairs(student_shapes, teacher_shapes)
        self.encoders, self.decoders, self.translators = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for student, teacher in zip(student_shapes.values(), teacher_shapes.values(), strict=True):
            if "vectors" in (kind_of(student), kind_of(teacher)):
                raise ModelError("factors are made of features with positions", fix="tap a layer before the pooling")
            inputs, wide = channels_of(student), channels_of(teacher)
            narrow = max(1, round(self.rate * wide))
            self.encoders.append(_convolutions(wide, wide, narrow, narrow))
            self.decoders.append(_convolutions(narrow, narrow, wide, wide))
            self.translators.append(_convolutions(inputs, inputs, narrow, narrow))

    def forward(self, step: Step) -> Tensor:
        values = []
        started = float(step.progress >= self.first)
        parts = zip(self.encoders, self.decoders, self.translators, pairs(step), strict=True)
        for encoder, decoder, translator, (student, teacher) in parts:
            student, teacher = at_least_fp32(student), at_least_fp32(teacher.detach())
            student, teacher = as_maps(student, teacher), as_maps(teacher, student)
            factor = encoder(teacher)
            rebuilt = (decoder(factor) - teacher).square().flatten(1).mean(1)
            values.append(started * ft_loss(translator(student), factor, self.norm) + self.reconstruction * rebuilt)
        return torch.stack(values).sum(0)


def _convolutions(*channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(channels):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)
