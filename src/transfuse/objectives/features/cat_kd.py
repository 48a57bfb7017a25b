"""Class attention transfer: where the student looks for each class is where the teacher looks for it."""

from typing import Annotated, Literal, cast

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.bridges import as_maps, averaged
from transfuse.core.card import Card
from transfuse.core.heads import Ending, require_in_front
from transfuse.core.numerics import at_least_fp32
from transfuse.core.types import Step
from transfuse.errors import ModelError
from transfuse.objectives._vectors import last_tap
from transfuse.objectives.features._pairs import unit_length

CARD = Card(
    title="Class attention transfer (CAT-KD)",
    paper="Guo, Yan, Li, Wang, Lu, 2023, CVPR",
    link="https://openaccess.thecvf.com/content/CVPR2023/html/Guo_Class_Attention_Transfer_Based_Knowledge_Distillation_CVPR_2023_paper.html",
    level="sample",
    needs=("student.head", "teacher.features", "teacher.head"),
    paper_weight=400.0,
    tasks=("classification", "multilabel"),
    cost="one map per class at a few positions; the teacher's features on disk",
)

Form = Literal["mean", "paper"]
Maps = Float[Tensor, "batch classes height width"]


def class_maps(features: Tensor, head: Float[Tensor, "classes channels"], resolution: int) -> Maps:
    """Class activation maps: M_c = sum_k w_ck F_k at every position, averaged to resolution x resolution positions.

    The average is taken first, which is the same (both are linear) and cheaper. The bias is the same everywhere and left out.
    """
    pooled = averaged(at_least_fp32(as_maps(features, features)), (resolution, resolution))
    return torch.einsum("oc,bchw->bohw", at_least_fp32(head).to(pooled.dtype), pooled)


def cat_kd_loss(student_maps: Maps, teacher_maps: Maps, normalize: bool = True, form: Form = "mean") -> Float[Tensor, "batch"]:
    """Squared difference of class activation maps, each divided by its length, per sample; averaged over classes and positions.

    form mean: (1/KP) sum_cp (s_cp - t_cp)^2 over K classes and P positions, which the authors' code computes and its weights belong to;
    paper: (1/K) sum_c |s_c - t_c|^2, P times as much. Their code's defaults, which are the ones here, are divided maps and weight 400; for
    their tables they chose per pair: 10 to 600 with divided maps between networks of different kinds, 0.5 to 15 with maps as they are
    (`normalize: false`) between networks of one kind, such as 0.7 from ResNet-56 to ResNet-20.

    Raises:
        ValueError: the maps differ in shape.
    """
    if student_maps.shape != teacher_maps.shape:
        raise ValueError(f"class maps of shapes {list(student_maps.shape)} and {list(teacher_maps.shape)} can't be compared")
    student, teacher = at_least_fp32(student_maps).flatten(2), at_least_fp32(teacher_maps.detach()).flatten(2)
    if normalize:
        student, teacher = unit_length(student), unit_length(teacher)
    squares = (student - teacher).square()
    return squares.mean((1, 2)) if form == "mean" else squares.sum(2).mean(1)


class CATKD(nn.Module):
    """Class activation maps of the deepest tapped features, made with the weights of both last layers; the student's get a gradient too.

    The paper turns the last layer into a 1x1 convolution before the pooling, which gives the same maps and the same logits; here the
    networks stay as they are. That takes a network whose last layer is given the mean over positions of the tapped feature; any other is
    refused before training.

    Args:
        resolution: positions per side of the compared maps; the paper's best is 2.
        normalize: whether only the place of a class's evidence counts, and not its amount; that changes the weight that fits.
        form: mean over classes and positions as in the authors' code, or the paper's sum over positions.
    """

    teacher_head: Tensor

    def __init__(self, resolution: Annotated[int, Ge(1)] = 2, normalize: bool = True, form: Form = "mean"):
        super().__init__()
        self.resolution, self.normalize = resolution, normalize
        self.form: Form = form
        self.head = ""

    def meet(self, student: Ending, teacher: Ending) -> None:
        """Takes the teacher's weights, and the name of the student's.

        Raises:
            ModelError: a tapped feature isn't what the last layer is given, or the student's outputs are made of those of its last layer.
        """
        for ending, whose in ((student, "student"), (teacher, "teacher")):
            require_in_front(ending, list(ending.features)[-1], whose)
        if not student.plain:
            raise ModelError(f"the student's outputs are not those of its last layer '{student.path}', so its class maps are unknown")
        self.head = student.path
        self.register_buffer("teacher_head", teacher.weight, persistent=False)  # the teacher's: in no checkpoint of the student

    def forward(self, step: Step) -> Tensor:
        if not self.head:
            raise ValueError("the last layers are not known; call meet(student, teacher) first")
        student_head = step.parameters[f"{self.head}.weight"].flatten(1)
        student = class_maps(last_tap(step.student, "student"), student_head, self.resolution)
        teacher = class_maps(last_tap(step.teacher, "teacher").detach(), cast(Tensor, self.teacher_head), self.resolution)
        return cat_kd_loss(student, teacher, self.normalize, self.form)
