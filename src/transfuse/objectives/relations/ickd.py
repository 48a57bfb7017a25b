"""Inter-channel correlation: channels of the student go together as the teacher's do."""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.bridges import as_maps, channels_of
from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32
from transfuse.core.types import Step
from transfuse.objectives._vectors import last_tap, unit

Form = Literal["code", "paper"]
CARD = Card(
    title="Inter-channel correlation (ICKD-C)",
    paper="Liu et al., 2021, ICCV",
    link="https://arxiv.org/abs/2202.03680",
    level="sample",
    needs=("teacher.features",),
    paper_weight=2.5,
    tasks=("classification", "multilabel", "regression"),
    cost="one feature of the teacher per sample; two products [channels, pixels] x [pixels, channels] per sample; a 1x1 convolution",
)


def ickd_loss(
    student_features: Float[Tensor, "batch channels student_height student_width"],
    teacher_features: Float[Tensor, "batch channels teacher_height teacher_width"],
    form: Form = "code",
) -> Float[Tensor, "batch"]:
    """Squared difference of the channel correlations G = F F^T, F of shape [channels, pixels], per sample.

    code: || rows(G_s) - rows(G_t) ||_F^2 / channels, every row divided by its L2 norm, so that maps may differ in size. paper:
    || G_s - G_t ||_F^2 / channels^2. The default is the code's, for which the weight 2.5 was chosen and whose scale doesn't follow the
    features'. Student features come with the teacher's number of channels (`ICKD` has the paper's linear map for that). The method's
    variant for segmentation (grid-wise) is left out.

    Raises:
        ValueError: one channel, whose normalised correlation is always 1 (code); maps of other sizes (paper); other numbers of channels.
    """
    channels = student_features.shape[1]
    if channels != teacher_features.shape[1]:
        raise ValueError(f"{channels} channels of the student and {teacher_features.shape[1]} of the teacher can't be compared; map them")
    if form == "code" and channels < 2:
        raise ValueError("a single channel's normalised correlation is always 1; tap a feature with more channels")
    if form == "paper" and student_features.shape[2:] != teacher_features.shape[2:]:
        raise ValueError("form: paper compares sums over pixels, and the maps differ in size; tap equal sizes or use form: code")
    student, teacher = (_correlations(features, form) for features in (student_features, teacher_features.detach()))
    return (student - teacher).square().sum((1, 2)) / (channels if form == "code" else channels**2)


def _correlations(maps: Float[Tensor, "batch channels height width"], form: Form) -> Float[Tensor, "batch channels channels"]:
    rows = at_least_fp32(maps).flatten(2)
    products = torch.bmm(rows, rows.transpose(1, 2))
    return unit(products) if form == "code" else products


class ICKD(nn.Module):
    """Channel correlations of the deepest tapped map; a 1x1 convolution brings the student to the teacher's channels where they differ.

    Tokens are laid out as maps, so a transformer can teach a CNN.

    Args:
        form: code normalises the correlations, paper doesn't.
    """

    def __init__(self, form: Form = "code"):
        super().__init__()
        self.form: Form = form
        self.bridge: nn.Module = nn.Identity()

    def build(self, student_shapes: Mapping[str, tuple[int, ...]], teacher_shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Makes the bridge.

        Raises:
            ValueError: a feature is neither map nor tokens, or none is tapped.
        """
        shapes: list[tuple[int, ...]] = [([(), *found.values()])[-1] for found in (student_shapes, teacher_shapes)]
        if any(len(shape) not in (3, 4) for shape in shapes):
            raise ValueError(f"correlations of channels need maps or tokens; the features tapped have shapes {shapes}")
        channels = [channels_of(shape) for shape in shapes]
        if channels[0] != channels[1]:
            self.bridge = nn.Conv2d(channels[0], channels[1], kernel_size=1, bias=False)

    def forward(self, step: Step) -> Tensor:
        student, teacher = last_tap(step.student, "student"), last_tap(step.teacher, "teacher")
        return ickd_loss(self.bridge(as_maps(at_least_fp32(student), teacher)), as_maps(teacher, student), self.form)
