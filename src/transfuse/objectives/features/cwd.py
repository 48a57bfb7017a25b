"""Channel-wise distillation: each channel of the student is to look at the places that the teacher's looks at."""

from typing import Annotated

import torch.nn.functional as F
from annotated_types import Gt
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.bridges import Shape, make_bridges
from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32, kl_divergence
from transfuse.core.types import Step
from transfuse.objectives.features._pairs import bridged, channel_rows, require_same_shape, total

CARD = Card(
    title="Channel-wise distillation (CWD)",
    paper="Shu, Liu, Gao, Yan, Shen, 2021, ICCV",
    link="https://arxiv.org/abs/2011.13256",
    level="sample",
    needs=("teacher.features",),
    paper_weight=50.0,
    tasks=("classification", "multilabel", "regression"),
    cost="one 1x1 convolution per pair of taps whose channels differ; the teacher's features on disk",
)


def cwd_loss(
    student_features: Float[Tensor, "batch *shape"], teacher_features: Float[Tensor, "batch *teacher_shape"], temperature: float = 4.0
) -> Float[Tensor, "batch"]:
    """T^2 / C sum_c KL(p_c || q_c) per sample, in nats: p_c and q_c are the softmaxes over positions of the
    teacher's and the student's channel c divided by T.

    The paper's weight is 50 for features (and 3 for maps of class scores).

    Raises:
        ValueError: the shapes differ; a map of one position, over which a softmax is always 1; temperature not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; it must be positive")
    require_same_shape(student_features, teacher_features)
    student, teacher = (channel_rows(at_least_fp32(feature)) for feature in (student_features, teacher_features.detach()))
    if student.shape[2] < 2:
        raise ValueError("a softmax over one position is always 1 and teaches nothing; tap a layer with larger maps")
    log_q, log_p = F.log_softmax(student / temperature, dim=2), F.log_softmax(teacher / temperature, dim=2)
    return kl_divergence(log_p, log_q).mean(1) * temperature**2


class CWD(nn.Module):
    """Places that one teacher's channels look at, summed over pairs of taps.

    Args:
        temperature: softens both; higher ones look at larger regions.
    """

    def __init__(self, temperature: Annotated[float, Gt(0)] = 4.0):
        super().__init__()
        self.temperature = temperature
        self.bridges = nn.ModuleList()

    def build(self, student_shapes: dict[str, Shape], teacher_shapes: dict[str, Shape]) -> None:
        self.bridges = make_bridges(student_shapes, teacher_shapes, always=False)

    def forward(self, step: Step) -> Tensor:
        return total(lambda student, teacher: cwd_loss(student, teacher, self.temperature), bridged(self.bridges, step))
