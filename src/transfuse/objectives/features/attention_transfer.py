"""Attention transfer: where the teacher's activations are large, the student's are to be large."""

from typing import Annotated, Literal

import torch
from annotated_types import Gt
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.bridges import same_size
from transfuse.core.card import Card
from transfuse.core.types import Step
from transfuse.objectives.features._pairs import pairs, total, unit_length

CARD = Card(
    title="Attention transfer (AT)",
    paper="Zagoruyko, Komodakis, 2017, ICLR",
    link="https://arxiv.org/abs/1612.03928",
    level="sample",
    needs=("teacher.features",),
    paper_weight=1000.0,
    tasks=("classification", "multilabel", "regression"),
    cost="next to nothing beyond the teacher, whose features are kept on disk; no trained parts",
)

Form = Literal["code", "paper"]


def attention_transfer_loss(
    student_features: Float[Tensor, "batch *student_shape"],
    teacher_features: Float[Tensor, "batch *teacher_shape"],
    form: Form = "code",
    power: float = 2.0,
) -> Float[Tensor, "batch"]:
    """Difference of two attention maps, per sample; maps of any numbers of channels, the larger one is pooled to the smaller.

    a = mean_c |f_c|^power over channels, flattened and divided by its Euclidean length.
    code: mean_positions (a_s - a_t)^2. paper: ||a_s - a_t||_2, equation 2.

    The authors' code is the default, since the weight (1000) that it and all comparisons use belongs to it; the paper's form, with beta / 2
    = 0.1 / batch size in its examples, is larger by the number of positions and not squared.

    Raises:
        ModelError: a feature has no positions.
    """
    student, teacher = same_size(student_features, teacher_features)
    difference = _attention(student, power) - _attention(teacher, power)
    if form == "code":
        return difference.square().mean(1)
    return torch.linalg.vector_norm(difference, dim=1)


def _attention(maps: Float[Tensor, "batch channels height width"], power: float) -> Float[Tensor, "batch positions"]:
    strengths = maps.square() if power == 2 else maps.abs().pow(power)
    return unit_length(strengths.mean(1).flatten(1))


class AttentionTransfer(nn.Module):
    """Attention maps of one teacher, summed over pairs of taps.

    Args:
        form: the authors' code (mean square) or the paper (Euclidean distance); they want different weights.
        power: of the activations before they are averaged over channels; larger ones look at peaks.
    """

    def __init__(self, form: Form = "code", power: Annotated[float, Gt(1)] = 2.0):
        super().__init__()
        self.form: Form = form
        self.power = power

    def forward(self, step: Step) -> Tensor:
        return total(lambda student, teacher: attention_transfer_loss(student, teacher, self.form, self.power), pairs(step))
