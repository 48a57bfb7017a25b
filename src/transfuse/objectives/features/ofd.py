"""Overhaul of feature distillation: only what is useful of the teacher's feature before its ReLU, against a one-sided distance."""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.bridges import Shape, kind_of, make_bridges
from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32
from transfuse.core.ranks import sum_over_ranks
from transfuse.core.types import Step
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


class OFD(nn.Module):
    """Features of one teacher before its ReLUs; a pair of taps weighs half of the next one, the last weighs 1.

    Tap the input of an activation: `layer1.2.relu@input`. The margin of a channel is the mean of its negative responses, as the paper
    defines it (equation 5), taken from the features as they come, in training; the authors compute the same number from the teacher's
    BatchNorm under the assumption of a normal distribution, which leaves out residual connections. Behind a ReLU there is nothing
    negative, and the margin is 0. `paper_weight` is that of the authors' code (a sum over entries, divided by 1000).
    """

    def __init__(self):
        super().__init__()
        self.bridges = nn.ModuleList()

    def build(self, student_shapes: dict[str, Shape], teacher_shapes: dict[str, Shape]) -> None:
        self.bridges = make_bridges(student_shapes, teacher_shapes, norm=True)
        for number, bridge in enumerate(self.bridges):
            weight = cast(Tensor, cast(nn.Sequential, bridge.project)[0].weight)
            self.register_buffer(f"margins_{number}", weight.new_zeros(len(weight)))
        self.register_buffer("seen", torch.zeros(()))

    def margins(self) -> list[Float[Tensor, "channels"]]:
        """The running mean of every channel's negative responses, per pair of taps."""
        return [cast(Tensor, getattr(self, f"margins_{number}")) for number in range(len(self.bridges))]

    def forward(self, step: Step) -> Tensor:
        found = bridged(self.bridges, step)
        if self.training:
            self._look([teacher for _, teacher in found])
        last, values = len(found) - 1, []
        for number, ((student, teacher), margins) in enumerate(zip(found, self.margins(), strict=True)):
            values.append(ofd_loss(student, teacher, margins) / 2 ** (last - number))
        return torch.stack(values).sum(0)

    @torch.no_grad()
    def _look(self, teachers: list[Tensor]) -> None:
        seen = cast(Tensor, self.seen)
        seen.add_(1).clamp_(max=MEMORY)
        for teacher, margins in zip(teachers, self.margins(), strict=True):
            others = [dimension for dimension in range(teacher.ndim) if dimension != (1 if teacher.ndim == 4 else teacher.ndim - 1)]
            negative = sum_over_ranks(torch.stack([teacher.clamp(max=0).sum(others), (teacher < 0).to(teacher.dtype).sum(others)]))
            means = negative[0] / negative[1].clamp(min=1)
            margins.add_((means - margins) / seen)
