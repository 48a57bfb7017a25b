"""Reused classifier: the student learns the teacher's last feature through a bridge, and ships bridge and teacher's head with it."""

from typing import Annotated, Literal, cast

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.bridges import Shape, in_common_form, kind_of, resized
from transfuse.core.card import Card
from transfuse.core.grafts import graft
from transfuse.core.heads import Ending, require_in_front
from transfuse.core.numerics import at_least_fp32
from transfuse.core.taps import Tap
from transfuse.core.types import Step
from transfuse.errors import ModelError
from transfuse.objectives._vectors import last_tap, vectors
from transfuse.objectives.features._pairs import require_same_shape

CARD = Card(
    title="Reused teacher classifier (SimKD)",
    paper="Chen, Mei, Zhang, Wang, Feng, Chen, 2022, CVPR",
    link="https://arxiv.org/abs/2203.14001",
    level="sample",
    needs=("teacher.features", "teacher.head"),
    paper_weight=1.0,
    tasks=("classification", "multilabel", "regression"),
    cost="three convolutions that the student keeps, and the teacher's head in place of its own; the teacher's features on disk",
)

Form = Literal["mean", "paper"]


def simkd_loss(
    student_features: Float[Tensor, "batch *shape"], teacher_features: Float[Tensor, "batch *teacher_shape"], form: Form = "mean"
) -> Float[Tensor, "batch"]:
    """Squared difference of the student's bridged feature and the teacher's, per sample: mean_e (s_e - t_e)^2, or its sum over entries.

    Where the student's map is smaller, the teacher's is averaged to its size, as in the authors' code. The mean is the default: it is
    what that code computes (and its weight of 1 belongs to), and it doesn't depend on the size of the feature; the paper writes the sum.

    Raises:
        ValueError: the shapes differ in more than the size of maps.
    """
    student, teacher = at_least_fp32(student_features), at_least_fp32(teacher_features.detach())
    if student.ndim == teacher.ndim == 4 and student.shape[2:] != teacher.shape[2:]:
        teacher = resized(teacher, (student.shape[2], student.shape[3]))
    require_same_shape(student, teacher)
    squares = (student - teacher).square().flatten(1)
    return squares.mean(1) if form == "mean" else squares.sum(1)


class SimKD(nn.Module):
    """The deepest tapped feature, bridged, against the teacher's; what is trained and shipped is student, bridge and teacher's head.

    The bridge is the authors': 1x1, 3x3 and 1x1 convolutions, each with BatchNorm and ReLU, the middle ones of teacher's channels /
    `reduction`; for vectors (`student_tap: HEAD@input`) linear layers in their place. The last ReLU is left out where the teacher's
    feature has negative entries, which it could not reach. `export` puts the bridge behind the student's tap and a frozen copy of the
    teacher's last layer in place of the student's, before training: every other term of the loss sees the logits that are shipped, as in
    the authors' code. So that this is the same network, the tapped features, averaged over positions, have to be what the last layers are
    given; anything else is refused before training.

    Args:
        reduction: the bridge's inner width is the teacher's divided by this.
        form: mean of the squares, or their sum as in the paper.
    """

    def __init__(self, reduction: Annotated[int, Ge(1)] = 2, form: Form = "mean"):
        super().__init__()
        self.reduction = reduction
        self.form: Form = form
        self.bridge: nn.Module = nn.Sequential()
        self._teacher: Ending | None = None
        self._student: Ending | None = None
        self._tap = ""

    def meet(self, student: Ending, teacher: Ending) -> None:
        """Takes note of how both networks end.

        Raises:
            ModelError: a tapped feature isn't what the last layer is given, or the student's outputs are made of those of its last layer.
        """
        for ending, whose in ((student, "student"), (teacher, "teacher")):
            require_in_front(ending, list(ending.features)[-1], whose)
        if not student.plain:  # what follows it would choose among the teacher's outputs, or scale them, once more
            raise ModelError(f"the student's outputs are not those of its last layer '{student.path}', so it can't be replaced")
        self._student, self._teacher = student, teacher

    def build(self, student_shapes: dict[str, Shape], teacher_shapes: dict[str, Shape]) -> None:
        self._tap, shape = list(student_shapes.items())[-1]
        student, teacher = torch.empty(shape, device="meta"), torch.empty(list(teacher_shapes.values())[-1], device="meta")
        maps = kind_of(shape) == "maps" and kind_of(teacher.shape) == "maps"
        if not maps:
            student, teacher = in_common_form(_vector(student), _vector(teacher))
        inner, outputs = max(teacher.shape[1] // self.reduction, 1), teacher.shape[1]
        widths = [(student.shape[1], inner), (inner, inner), (inner, outputs)]
        layers: list[nn.Module] = []
        if maps and (student.shape[2] > teacher.shape[2] or student.shape[3] > teacher.shape[3]):
            size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
            layers.append(nn.AdaptiveAvgPool2d(size))
        for (before, after), kernel in zip(widths, (1, 3, 1), strict=True):
            conv = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False) if maps else nn.Linear(before, after, bias=False)
            layers += [conv, nn.BatchNorm2d(after) if maps else nn.BatchNorm1d(after), nn.ReLU()]
        if self._teacher is not None and bool((self._teacher.inputs < 0).any()):
            layers.pop()
        self.bridge = nn.Sequential(*layers)

    def export(self, student: nn.Module) -> nn.Module:
        """The student with bridge and teacher's head in it, changed in place; from then on the tapped feature comes bridged.

        Raises:
            ValueError: `meet` or `build` was not called.
            ModelError: the tap can't be cut.
        """
        if self._student is None or self._teacher is None or not self._tap:
            raise ValueError("how the networks end is not known; call meet and build first")
        weight, bias = (value.to(self._student.weight) for value in (self._teacher.weight, self._teacher.bias))  # to its device
        width, outputs, kind = weight.shape[1], weight.shape[0], {"device": weight.device, "dtype": weight.dtype}
        maps = isinstance(student.get_submodule(self._student.path), nn.Conv2d)  # a last layer that runs before the pooling
        head = (nn.Conv2d(width, outputs, 1, **kind) if maps else nn.Linear(width, outputs, **kind)).requires_grad_(False)
        head.weight.copy_(weight.view_as(head.weight))
        cast(Tensor, head.bias).copy_(bias)
        tap = Tap.parse(self._tap)
        graft(student, self._student.path, "instead", [head])
        graft(student, tap.module, "before" if tap.input else "after", list(cast(nn.Sequential, self.bridge)))
        self.bridge = nn.Identity()
        self._student = self._teacher = None
        return student

    def forward(self, step: Step) -> Tensor:
        student, teacher = at_least_fp32(last_tap(step.student, "student")), last_tap(step.teacher, "teacher")
        if student.ndim != 4 or teacher.ndim != 4:
            student, teacher = vectors(student), vectors(teacher)
        return simkd_loss(self.bridge(student), teacher, self.form)


def _vector(feature: Tensor) -> Tensor:
    return feature if feature.ndim == 2 else vectors(feature)
