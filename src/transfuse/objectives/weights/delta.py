"""DELTA: feature maps stay where the pretrained network had them, most of all the channels that matter."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.bridges import channels_of
from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32
from transfuse.core.types import Step
from transfuse.objectives._vectors import vectors

CARD = Card(
    title="Deep learning transfer with attention (DELTA)",
    paper="Li et al., 2019, ICLR",
    link="https://arxiv.org/abs/1901.09229",
    level="sample",
    needs=("teacher.features",),
    paper_weight=0.01,
    tasks=("classification", "multilabel", "regression"),
    cost="the tapped features of the starting network, once per step",
)


def delta_loss(
    student_features: Float[Tensor, "batch *inner"],
    teacher_features: Float[Tensor, "batch *inner"],
    attention: Float[Tensor, "channels"] | None = None,
) -> Float[Tensor, "batch"]:
    """1/2 sum_c a_c |s_c - t_c|^2 / pixels per sample: s the student's map of channel c, t that of the network it started from.

    a_c = C W_c, with W the paper's attention, which sums to 1 over the C channels, so that a has mean 1; without attention a_c = 1, which
    is plain feature regularisation. Per sample: a common implementation sums over the batch, so that its strength grows with the batch.
    The paper adds L2 on the new head (weight 0.01): use `l2_sp` or weight decay for that. Tokens [batch, tokens, width] count width as
    channels.

    Raises:
        ValueError: student and teacher differ in shape, so the teacher isn't what the student started from; attention of another length.
    """
    if student_features.shape != teacher_features.shape:
        shapes = f"{list(student_features.shape)} and {list(teacher_features.shape)}"
        raise ValueError(f"features of shape {shapes}; the teacher has to be the network that the student started from")
    channels = channels_of(student_features.shape)
    if attention is not None and len(attention) != channels:
        raise ValueError(f"attention for {len(attention)} channels, and the feature has {channels}")
    gap = at_least_fp32(student_features) - at_least_fp32(teacher_features.detach())
    by_channel = vectors(gap.square())
    if attention is not None:
        by_channel = by_channel * attention.to(by_channel.dtype)
    return 0.5 * by_channel.sum(1)


class DELTA(nn.Module):
    """The way of all tapped features from those of the starting network, which is the teacher, summed over taps.

    Every channel counts alike until `attend` is told how much the loss grows without each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.taps = 0

    def build(self, student_shapes: Mapping[str, tuple[int, ...]], teacher_shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Makes even attention for every tap.

        Raises:
            ValueError: nothing is tapped, or the taps differ in shape.
        """
        shapes, others = ([shape[1:] for shape in found.values()] for found in (student_shapes, teacher_shapes))
        if not shapes or shapes != others:
            why = "the teacher has to be the network that the student started from, tapped at the same places"
            raise ValueError(f"features of shapes {shapes} and {others}; {why}")
        self.taps = len(shapes)
        for tap, shape in enumerate(student_shapes.values()):
            self.register_buffer(f"attention_{tap}", torch.ones(channels_of(shape)))

    def attend(self, loss_increases: Sequence[Float[Tensor, "channels"]]) -> None:
        """Sets a = C softmax(increase of the training loss when a channel is set to 0), per tap, as in the paper.

        Raises:
            ValueError: another number of taps or of channels.
        """
        expected = [len(getattr(self, f"attention_{tap}")) for tap in range(self.taps)]
        if [len(increases) for increases in loss_increases] != expected:
            raise ValueError(f"increases for channels {[len(increases) for increases in loss_increases]}, and the taps have {expected}")
        for tap, increases in enumerate(loss_increases):
            attention = getattr(self, f"attention_{tap}")
            attention.copy_(len(increases) * at_least_fp32(increases).softmax(0))

    def forward(self, step: Step) -> Tensor:
        pairs = list(zip(step.student.features.values(), step.teacher.features.values(), strict=True))
        attention = [getattr(self, f"attention_{tap}") for tap in range(self.taps)]
        values = [delta_loss(student, teacher, weights) for (student, teacher), weights in zip(pairs, attention, strict=True)]
        return torch.stack(values).sum(0)
