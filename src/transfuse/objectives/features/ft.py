"""Factor transfer: the teacher's feature is paraphrased by an autoencoder, and the student learns to translate its own into that."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch
from annotated_types import Gt, Le
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.bridges import Shape, as_maps, channels_of, kind_of, require_pairs, same_size
from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32
from transfuse.core.stages import Stage
from transfuse.core.types import Step
from transfuse.errors import ModelError
from transfuse.objectives.features._pairs import pairs, unit_length

CARD = Card(
    title="Factor transfer (FT)",
    paper="Kim, Park, Kwak, 2018, NeurIPS",
    link="https://arxiv.org/abs/1802.04977",
    level="sample",
    needs=("teacher.features",),
    paper_weight=500.0,
    tasks=("classification", "multilabel", "regression"),
    cost="nine 3x3 convolutions of up to the teacher's width per pair of taps, six of them prepared before; the teacher's features on disk",
)

Norm = Literal[1, 2]
Form = Literal["mean", "paper"]


def ft_loss(
    student_features: Float[Tensor, "batch *student_shape"],
    teacher_features: Float[Tensor, "batch *teacher_shape"],
    norm: Norm = 1,
    form: Form = "mean",
) -> Float[Tensor, "batch"]:
    """Difference of two factors, each flattened and divided by its Euclidean length, per sample.

    mean: mean |s - t| over entries, or mean (s - t)^2 with norm 2. paper: the norm itself, sum |s - t| or the Euclidean length of s - t.
    The mean is the default: it is what the authors' code computes, and its weight of 500 (`paper_weight`) belongs to it. The 200 that
    comparisons quote (Tian et al., 2020) belongs to another loss: their code compares the mean over channels of a factor's squares. The
    larger maps are pooled to the smaller ones.

    Raises:
        ValueError: other numbers of channels.
    """
    student, teacher = same_size(student_features, teacher_features)
    if student.shape[1] != teacher.shape[1]:
        raise ValueError(f"factors of {student.shape[1]} and {teacher.shape[1]} channels can't be compared; translate the student's first")
    difference = unit_length(student.flatten(1)) - unit_length(teacher.flatten(1))
    if form == "paper":
        return torch.linalg.vector_norm(difference, ord=norm, dim=1)
    return difference.abs().mean(1) if norm == 1 else difference.square().mean(1)


class FT(nn.Module):
    """Factors of one teacher, summed over pairs of taps.

    First a paraphraser (encoder and decoder) learns to rebuild the teacher's feature, while the student waits; from then on its encoder
    gives the teacher's factors and stays as it is. Then the student learns, its translator with it. The preparation has the recipe's
    optimiser and learning-rate schedule over steps of its own, which come on top of the student's; 30 epochs beside 240 in the comparisons
    of Tian et al. (2020), 5 beside 163 in the authors' code (github.com/Jangho-Kim/Factor-Transfer-pytorch), which also rebuilds by
    absolute instead of squared differences, by transposed convolutions, and has no BatchNorm, as those comparisons have.

    Args:
        rate: channels of a factor, as a share of the teacher's.
        norm: 1 or 2: absolute or squared differences; 1 is the paper's best.
        form: mean over a factor's entries as in the authors' code, or the paper's norm of the difference.
        preparation: steps of the paraphraser, as a share of the student's.
    """

    def __init__(
        self,
        rate: Annotated[float, Gt(0), Le(1)] = 0.5,
        norm: Norm = 1,
        form: Form = "mean",
        preparation: Annotated[float, Gt(0)] = 0.125,
    ):
        super().__init__()
        self.rate, self.preparation = rate, preparation
        self.norm: Norm = norm
        self.form: Form = form
        self.encoders, self.decoders, self.translators = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self._student_shapes: list[Shape] = []

    def stages(self) -> Sequence[Stage]:
        return (Stage("prepare", self.preparation, ("encoders", "decoders")),)

    def build(self, student_shapes: dict[str, Shape], teacher_shapes: dict[str, Shape]) -> None:
        require_pairs(student_shapes, teacher_shapes)
        self.encoders, self.decoders, self.translators = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self._student_shapes = list(student_shapes.values())
        for student, teacher in zip(student_shapes.values(), teacher_shapes.values(), strict=True):
            if "vectors" in (kind_of(student), kind_of(teacher)):
                raise ModelError("factors are made of features with positions", fix="tap a layer before the pooling")
            inputs, wide = channels_of(student), channels_of(teacher)
            narrow = max(1, round(self.rate * wide))
            self.encoders.append(_convolutions(wide, wide, narrow, narrow))
            self.decoders.append(_convolutions(narrow, narrow, wide, wide))
            self.translators.append(_convolutions(inputs, inputs, narrow, narrow))

    def prepare(self, step: Step) -> Float[Tensor, "batch"]:
        """What the paraphrasers learn from, per sample: mean (decoder(encoder(t)) - t)^2 over a feature's entries, summed over taps."""
        values = []
        features = step.teacher.features.values()
        for encoder, decoder, shape, feature in zip(self.encoders, self.decoders, self._student_shapes, features, strict=True):
            beside = torch.empty(shape, device="meta")  # tokens are laid out as they will be beside the student's maps
            teacher = as_maps(at_least_fp32(feature.detach()), beside)
            values.append((decoder(encoder(teacher)) - teacher).square().flatten(1).mean(1))
        return torch.stack(values).sum(0)

    def forward(self, step: Step) -> Tensor:
        values = []
        for encoder, translator, (student, teacher) in zip(self.encoders, self.translators, pairs(step), strict=True):
            student, teacher = at_least_fp32(student), at_least_fp32(teacher.detach())
            student, teacher = as_maps(student, teacher), as_maps(teacher, student)
            values.append(ft_loss(translator(student), encoder(teacher).detach(), self.norm, self.form))
        return torch.stack(values).sum(0)


def _convolutions(*channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(channels):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)
