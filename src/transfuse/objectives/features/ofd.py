"""Overhaul of feature distillation: only what is useful of the teacher's feature before its ReLU, against a one-sided distance."""

from collections.abc import Mapping
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.bridges import Shape, kind_of, make_bridges
from transfuse.core.card import Card
from transfuse.core.norms import Norm
from transfuse.core.numerics import at_least_fp32
from transfuse.core.ranks import sum_over_ranks
from transfuse.core.types import Step
from transfuse.errors import ModelError
from transfuse.objectives.features._pairs import bridged, require_same_shape

CARD = Card(
    title="Overhaul of feature distillation (OFD)",
    paper="Heo, Kim, Yun, Park, Kwak, Choi, 2019, ICCV",
    link="https://arxiv.org/abs/1904.01866",
    level="sample",
    needs=("teacher.features",),
    paper_weight=1e-3,
    tasks=("classification", "multilabel", "regression"),
    cost="a 1x1 convolution and BatchNorm per pair of taps; the teacher's features on disk",
)
MEMORY = 1000  # steps after which the running margins forget
FORGOTTEN = 1e-30  # negative responses per step, below which a channel keeps its margin: what is left of them would soon be rounding
RARE = 1e-3  # probability of a negative response up to which the authors' code takes another margin

Margins = Literal["observed", "batchnorm"]


def ofd_loss(
    student_features: Float[Tensor, "batch *shape"],
    teacher_features: Float[Tensor, "batch *teacher_shape"],
    margins: Float[Tensor, "channels"],
) -> Float[Tensor, "batch"]:
    """Partial squared distance to the teacher's feature after a margin ReLU, summed over entries, per sample.

    t' = max(t, m_c); an entry counts (s - t')^2, and nothing where t' <= 0 and s <= t': there the ReLU behind gives 0 for both.

    Raises:
        ValueError: the shapes differ.
    """
    require_same_shape(student_features, teacher_features)
    student, teacher = at_least_fp32(student_features), at_least_fp32(teacher_features.detach())
    margins = margins[:, None, None] if kind_of(student.shape) == "maps" else margins
    target = torch.maximum(teacher, margins.to(teacher.dtype))
    return torch.where((student > target) | (target > 0), student - target, 0.0).square().flatten(1).sum(1)


def batchnorm_margins(norm: Norm) -> Float[Tensor, "channels"]:
    """The mean of the negative part of a normal distribution with a BatchNorm's mean m and deviation s, per channel.

    E[x | x < 0] = m - s phi(m / s) / Phi(-m / s), with phi and Phi the standard normal density and distribution; -3 s where Phi(-m / s) is
    at most 0.001, as in the authors' code.
    """
    mean, deviation = norm.mean.double(), norm.deviation.double()
    ratio = mean / deviation.clamp(min=1e-12)  # a channel that BatchNorm holds constant is m where that is negative, and else 0
    log_tail = torch.special.log_ndtr(-ratio)
    density = torch.exp(-ratio.square() / 2 - log_tail) / (2 * torch.pi) ** 0.5
    return torch.where(log_tail.exp() > RARE, mean - deviation * density, -3 * deviation).to(norm.mean.dtype)


class OFD(nn.Module):
    """Features of one teacher before its ReLUs; a pair of taps weighs half of the next one, the last weighs 1.

    Tap the input of an activation: `layer1.2.relu@input`. The margin of a channel is the mean of its negative responses, as the paper
    defines it (equation 5). observed takes it from the features as they come, in training; behind a ReLU there is nothing negative, and
    the margin is 0. batchnorm is the paper's other way, which the authors' code takes (github.com/clovaai/overhaul-distillation): the same
    mean of a normal distribution with the bias and weight of the BatchNorm in front of the tap, known before the first step. It leaves
    out what a residual connection adds behind the BatchNorm, and needs one, so observed is the default: it is the definition itself, for
    every teacher. `paper_weight` is that of the authors' code (a sum over entries, divided by 1000).

    Args:
        margins: observed, or batchnorm as in the authors' code; a teacher without a BatchNorm in front of a tap is then refused.
    """

    def __init__(self, margins: Margins = "observed"):
        super().__init__()
        self.kind: Margins = margins
        self.bridges = nn.ModuleList()
        self._given: list[Tensor] = []

    def take_norms(self, norms: Mapping[str, Norm | None]) -> None:
        """
        Raises:
            ModelError: margins are to come from BatchNorm, and there is none in front of a tap.
        """
        if self.kind == "observed":
            return
        missing = [path for path, norm in norms.items() if norm is None]
        if missing:
            what = f"margins: batchnorm needs a BatchNorm in front of the teacher's tap, and there is none before '{missing[0]}'"
            raise ModelError(what, fix="use margins: observed")
        self._given = [batchnorm_margins(norm) for norm in norms.values() if norm is not None]

    def build(self, student_shapes: dict[str, Shape], teacher_shapes: dict[str, Shape]) -> None:
        if self.kind == "batchnorm" and len(self._given) != len(teacher_shapes):
            raise ValueError("margins: batchnorm has not been shown the teacher's BatchNorm; call take_norms(norms) before build")
        self.bridges = make_bridges(student_shapes, teacher_shapes, norm=True)
        for number, bridge in enumerate(self.bridges):
            weight = cast(Tensor, cast(nn.Sequential, bridge.project)[0].weight)
            start = weight.new_zeros(len(weight)) if self.kind == "observed" else self._given[number].to(weight)
            self.register_buffer(f"margins_{number}", start)
            if self.kind == "observed":  # per channel and step: the sum of what is negative, and how many responses are
                self.register_buffer(f"negatives_{number}", start.new_zeros(2, len(start)))
        self.register_buffer("seen", torch.zeros(()))

    def margins(self) -> list[Float[Tensor, "channels"]]:
        """The mean of every channel's negative responses, per pair of taps: as far as it has been seen, or by BatchNorm."""
        return [cast(Tensor, getattr(self, f"margins_{number}")) for number in range(len(self.bridges))]

    def forward(self, step: Step) -> Tensor:
        found = bridged(self.bridges, step)
        if self.training and self.kind == "observed":
            self._look([teacher for _, teacher in found])
        last, values = len(found) - 1, []
        for number, ((student, teacher), margins) in enumerate(zip(found, self.margins(), strict=True)):
            values.append(ofd_loss(student, teacher, margins) / 2 ** (last - number))
        return torch.stack(values).sum(0)

    @torch.no_grad()
    def _look(self, teachers: list[Tensor]) -> None:
        seen = cast(Tensor, self.seen)
        seen.add_(1).clamp_(max=MEMORY)
        for number, (teacher, margins) in enumerate(zip(teachers, self.margins(), strict=True)):
            others = [dimension for dimension in range(teacher.ndim) if dimension != (1 if teacher.ndim == 4 else teacher.ndim - 1)]
            found = sum_over_ranks(torch.stack([teacher.clamp(max=0).sum(others), (teacher < 0).to(teacher.dtype).sum(others)]))
            negatives = cast(Tensor, getattr(self, f"negatives_{number}"))
            negatives.add_((found - negatives) / seen)  # sum and count apart: a step with few negatives counts as few
            total, count = negatives
            margins.copy_(torch.where(count > FORGOTTEN, total / count.clamp(min=FORGOTTEN), margins))
