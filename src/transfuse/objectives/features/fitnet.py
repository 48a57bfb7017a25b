"""Hints: the student's feature, through a trained regressor, is to equal the teacher's."""

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Gt, Lt
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.bridges import Shape, make_bridges
from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32
from transfuse.core.stages import Stage
from transfuse.core.types import Step
from transfuse.objectives.features._first import When, first_stage
from transfuse.objectives.features._pairs import bridged, require_same_shape, total

CARD = Card(
    title="FitNets (hints)",
    paper="Romero, Ballas, Kahou, Chassang, Gatta, Bengio, 2015, ICLR",
    link="https://arxiv.org/abs/1412.6550",
    level="sample",
    needs=("teacher.features",),
    paper_weight=100.0,
    tasks=("classification", "multilabel", "regression"),
    cost="one 1x1 convolution per pair of taps; the teacher's features on disk",
)

Form = Literal["mean", "paper"]


def fitnet_loss(
    student_features: Float[Tensor, "batch *shape"], teacher_features: Float[Tensor, "batch *teacher_shape"], form: Form = "mean"
) -> Float[Tensor, "batch"]:
    """Squared difference of two features of one shape, per sample: mean_e (s_e - t_e)^2, or 1/2 sum_e (s_e - t_e)^2 as in the paper.

    The mean is the default, as in every later comparison (Tian et al., 2020, whose weight of 100 is `paper_weight`): its weight doesn't
    depend on the size of the feature.

    Raises:
        ValueError: the shapes differ.
    """
    require_same_shape(student_features, teacher_features)
    squares = (at_least_fp32(student_features) - at_least_fp32(teacher_features.detach())).square().flatten(1)
    return squares.mean(1) if form == "mean" else 0.5 * squares.sum(1)


class FitNet(nn.Module):
    """Squared difference to one teacher's features, after a regressor; summed over pairs of taps.

    The regressor is a 1x1 convolution (a linear layer for vectors and tokens) and brings positions to the teacher's by pooling or
    interpolation; the paper's larger kernels without padding, made to shrink maps, are not needed for that.

    The paper trains the student up to its guided layer by the hint alone and then the whole by soft targets (section 2.3): `when: first`.
    By default the hint is one term among the others, as in every later comparison, to which `paper_weight` belongs. The paper's first stage
    ends when validation stops improving for 100 epochs, so it has no share to be quoted; a quarter of the steps is ours. Each stage has the
    recipe's learning-rate schedule from its beginning, and an optimiser of its own.

    Args:
        form: mean of the squares, or half their sum as in the paper.
        regressor: always, as in the paper, or only where the numbers of channels differ.
        when: together adds the term to the others throughout; first is the paper's.
        share: of the student's steps that the first stage takes.
    """

    def __init__(
        self,
        form: Form = "mean",
        regressor: Literal["always", "channels_differ"] = "always",
        when: When = "together",
        share: Annotated[float, Gt(0), Lt(1)] = 0.25,
    ):
        super().__init__()
        self.form: Form = form
        self.when: When = when
        self.regressor, self.share = regressor, share
        self.bridges = nn.ModuleList()

    def stages(self) -> Sequence[Stage]:
        return first_stage(self.when, self.share)

    def build(self, student_shapes: dict[str, Shape], teacher_shapes: dict[str, Shape]) -> None:
        self.bridges = make_bridges(student_shapes, teacher_shapes, always=self.regressor == "always")

    def forward(self, step: Step) -> Tensor:
        return total(lambda student, teacher: fitnet_loss(student, teacher, self.form), bridged(self.bridges, step))
