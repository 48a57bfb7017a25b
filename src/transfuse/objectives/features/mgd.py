"""Masked generative distillation: from a masked feature of the student the teacher's whole feature is to be generated."""

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Lt
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.bridges import Shape, as_maps, channels_of, make_bridges
from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32
from transfuse.core.types import Step
from transfuse.objectives.features._pairs import bridged, require_same_shape

CARD = Card(
    title="Masked generative distillation (MGD)",
    paper="Yang, Li, Shao, Shi, Yuan, Yuan, 2022, ECCV",
    link="https://arxiv.org/abs/2205.01529",
    level="sample",
    needs=("teacher.features",),
    paper_weight=7e-5,
    tasks=("classification", "multilabel", "regression"),
    cost="two 3x3 convolutions of the teacher's width per pair of taps; the teacher's features on disk",
)


def mgd_loss(
    student_features: Float[Tensor, "batch *shape"], teacher_features: Float[Tensor, "batch *teacher_shape"]
) -> Float[Tensor, "batch"]:
    """Sum over entries of the squared difference between the generated feature and the teacher's, per sample.

    The sum, not the mean, as in paper and code; hence the small weight.

    Raises:
        ValueError: the shapes differ.
    """
    require_same_shape(student_features, teacher_features)
    return (at_least_fp32(student_features) - at_least_fp32(teacher_features.detach())).square().flatten(1).sum(1)


class MGD(nn.Module):
    """Generation of one teacher's features from masked ones of the student, summed over pairs of taps.

    feature -> 1x1 convolution where channels differ -> mask (in training only, like dropout) -> 3x3 convolution -> ReLU -> 3x3 convolution.

    Args:
        masked: share that is set to 0; 0.15 for classification.
        mask: channels, as in the authors' code for classification, to which weight and share belong, or positions, as in the paper's text.
    """

    def __init__(self, masked: Annotated[float, Ge(0), Lt(1)] = 0.15, mask: Literal["channels", "positions"] = "channels"):
        super().__init__()
        self.masked, self.mask = masked, mask
        self.bridges, self.generators = nn.ModuleList(), nn.ModuleList()

    def build(self, student_shapes: dict[str, Shape], teacher_shapes: dict[str, Shape]) -> None:
        self.bridges = make_bridges(student_shapes, teacher_shapes, always=False)
        self.generators = nn.ModuleList()
        for shape in teacher_shapes.values():
            wide = channels_of(shape)
            self.generators.append(nn.Sequential(nn.Conv2d(wide, wide, 3, padding=1), nn.ReLU(), nn.Conv2d(wide, wide, 3, padding=1)))

    def forward(self, step: Step) -> Tensor:
        values = []
        for generator, (student, teacher) in zip(self.generators, bridged(self.bridges, step), strict=True):
            student, teacher = as_maps(student, teacher), as_maps(teacher, student)
            values.append(mgd_loss(generator(self.hidden(student)), teacher))
        return torch.stack(values).sum(0)

    def hidden(self, maps: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        """The maps with a random share of channels or positions set to 0, in training."""
        if not self.training or self.masked == 0:
            return maps
        batch, channels, height, width = maps.shape
        shape = (batch, channels, 1, 1) if self.mask == "channels" else (batch, 1, height, width)
        return maps * (torch.rand(shape, device=maps.device) >= self.masked)
