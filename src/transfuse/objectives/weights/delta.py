"""DELTA: feature maps stay where the pretrained network had them, most of all the channels that matter."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.bridges import channels_of
from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32
from transfuse.core.taps import Tap, unwrapped
from transfuse.core.types import Step, Trial
from transfuse.objectives._vectors import vectors
from transfuse.objectives.weights._new_head import NewHead, fit_head

CARD = Card(
    title="Deep learning transfer with attention (DELTA)",
    paper="Li et al., 2019, ICLR",
    link="https://arxiv.org/abs/1901.09229",
    level="sample",
    needs=("teacher.features",),
    paper_weight=0.01,
    tasks=("classification", "multilabel", "regression"),
    cost="the tapped features of the starting network, once per step; attention: a pass over some samples per channel before training",
)

Weighting = Literal["uniform", "paper", "code"]


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

    A channel's attention comes from how much the label loss grows when that channel of the teacher is set to 0, looked at once before
    training. As in the paper, a new linear head for the data's labels is fitted to the frozen teacher first, so what the teacher's own
    outputs mean doesn't matter; the paper trains it by SGD on all training samples, here L-BFGS fits it to `samples` of them, with the L2
    of weight 0.01 that the paper has on the head. Attention takes one pass over the samples per channel, seconds for a CIFAR network on a
    CPU and hours for a ResNet-50 there, so the default is even attention, which is the paper's plain feature regularisation.

    Args:
        weighting: uniform; paper: softmax of the increases; code: softmax of the increases divided by 5 of their standard deviations, as
            the common implementation has it, since increases of a converged loss are so small that the paper's softmax is nearly even.
        samples: how many labelled training samples the head is fitted to and the increases are measured on.
    """

    def __init__(self, weighting: Weighting = "uniform", samples: Annotated[int, Ge(1)] = 256) -> None:
        super().__init__()
        self.weighting: Weighting = weighting
        self.samples = samples
        self.taps = 0
        self.paths: tuple[str, ...] = ()

    def build(self, student_shapes: Mapping[str, tuple[int, ...]], teacher_shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Makes even attention for every tap.

        Raises:
            ValueError: nothing is tapped, the taps differ in shape, or attention can't be measured there.
        """
        shapes, others = ([shape[1:] for shape in found.values()] for found in (student_shapes, teacher_shapes))
        if not shapes or shapes != others:
            why = "the teacher has to be the network that the student started from, tapped at the same places"
            raise ValueError(f"features of shapes {shapes} and {others}; {why}")
        self.taps, self.paths = len(shapes), tuple(teacher_shapes)
        entries = [path for path in self.paths if Tap.parse(path).item is not None]
        if entries and self.weighting != "uniform":
            raise ValueError(f"a channel of '{entries[0]}', an entry of several, can't be set to 0; tap a module that gives one tensor")
        for tap, shape in enumerate(student_shapes.values()):
            self.register_buffer(f"attention_{tap}", torch.ones(channels_of(shape)))

    def probe(self, student: Trial, teacher: Trial | None) -> str:
        """Measures what each channel of the teacher is worth, unless all count alike.

        Raises:
            ValueError: the teacher is no network; there is no labelled sample, or a label that the student has no output for; the tap is
                the teacher's last layer.
            ModelError: the teacher's last layer can't be found.
        """
        if self.weighting == "uniform":
            return ""
        if teacher is None:
            raise ValueError("attention is measured on the teacher's network, and the teacher is none")
        widths = [len(getattr(self, f"attention_{tap}")) for tap in range(self.taps)]
        head = fit_head(teacher, _outputs(student), self.samples)
        self.attend([loss_increases(head, path, width, self.samples) for path, width in zip(self.paths, widths, strict=True)])
        return f"attention over {sum(widths)} channels, measured on up to {self.samples} training samples"

    def attend(self, loss_increases: Sequence[Float[Tensor, "channels"]]) -> None:
        """Sets a = C softmax(increase of the training loss when a channel is set to 0), per tap; see `weighting`.

        Raises:
            ValueError: another number of taps or of channels.
        """
        expected = [len(getattr(self, f"attention_{tap}")) for tap in range(self.taps)]
        if [len(increases) for increases in loss_increases] != expected:
            raise ValueError(f"increases for channels {[len(increases) for increases in loss_increases]}, and the taps have {expected}")
        for tap, increases in enumerate(loss_increases):
            increases = at_least_fp32(increases)
            if self.weighting == "code":
                spread = increases.std(correction=0)
                increases = (increases - increases.mean()) / (5 * torch.where(spread > 0, spread, 1.0))
            getattr(self, f"attention_{tap}").copy_(len(increases) * increases.softmax(0))

    def forward(self, step: Step) -> Tensor:
        pairs = list(zip(step.student.features.values(), step.teacher.features.values(), strict=True))
        attention = [getattr(self, f"attention_{tap}") for tap in range(self.taps)]
        values = [delta_loss(student, teacher, weights) for (student, teacher), weights in zip(pairs, attention, strict=True)]
        return torch.stack(values).sum(0)


def _outputs(student: Trial) -> int:
    """How many outputs the student has for the data's labels."""
    with torch.no_grad():
        return next((student.network(inputs).shape[-1] for inputs, _ in student.batches(1)), 1)


@torch.no_grad()
def loss_increases(head: NewHead, path: str, channels: int, samples: int) -> Float[Tensor, "channels"]:
    """By how much the mean label loss behind a new head grows when one channel of a tapped feature is set to 0, for every channel.

    Raises:
        ValueError: the tap is not in front of the head, so that nothing would grow.
    """
    tap = Tap.parse(path)
    module = unwrapped(head.trial.network).get_submodule(tap.module)
    if module is head.layer and not tap.input:
        raise ValueError(f"'{path}' is the teacher's last layer, in whose place a new head stands; tap a feature in front of it")
    total, count = torch.zeros(channels), 0
    for inputs, labels in head.trial.batches(samples):
        before = head.losses(inputs, labels).sum()
        for channel in range(channels):
            hook = _Silenced(channel, channels)
            handle = module.register_forward_pre_hook(hook.of_input) if tap.input else module.register_forward_hook(hook.of_output)
            try:
                total[channel] += (head.losses(inputs, labels).sum() - before).cpu()
            finally:
                handle.remove()
        count += len(inputs)
    return total / max(count, 1)


class _Silenced:
    """Sets one channel of what a module takes or gives to 0."""

    def __init__(self, channel: int, channels: int):
        self.channel, self.channels = channel, channels

    def of_input(self, module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._without(given[0]), *given[1:])

    def of_output(self, module: nn.Module, given: tuple[Any, ...], made: Tensor) -> Tensor:
        return self._without(made)

    def _without(self, feature: Tensor) -> Tensor:
        dimension = 1 if feature.ndim == 4 and feature.shape[1] == self.channels else feature.ndim - 1
        return feature.index_fill(dimension, torch.full((1,), self.channel, device=feature.device), 0)
