"""One for all: features of any architecture get exits of their own, which learn the teacher's prediction, the target class enhanced."""

from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from annotated_types import Gt
from jaxtyping import Float, Int
from torch import Tensor, nn

from transfuse.core.bridges import Shape, as_maps, channels_of, kind_of
from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32, log_softmax_at
from transfuse.core.types import Step

CARD = Card(
    title="One-for-All (OFA-KD)",
    paper="Hao, Guo, Han, Tang, Hu, Wang, Xu, 2023, NeurIPS",
    link="https://arxiv.org/abs/2310.19444",
    level="sample",
    needs=("hard_labels", "student.features", "teacher.logits.dense"),
    paper_weight=1.0,
    tasks=("classification",),
    cost="a small network of its own behind each tapped feature, which is not shipped; the teacher's logits, once per sample when cached",
)

Form = Literal["code", "paper"]


def ofa_loss(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, "batch"],
    epsilon: float = 1.0,
    temperature: float = 1.0,
    form: Form = "code",
) -> Float[Tensor, "batch"]:
    """Cross-entropy to the teacher's prediction p with the target class y enhanced, per sample, in nats; q is the student's prediction.

    code: -sum_c ((p_c + [c = y])^epsilon - [c = y]) log q_c. paper: -(1 + p_y)^epsilon log q_y - sum_{c != y} p_c log q_c, which
    contains the label's cross-entropy and leaves the other classes as they are. At epsilon = 1 the first is the plain cross-entropy to p,
    and the second that plus the label's. The authors' code is the default: their weights and epsilons (1 on CIFAR-100, 1.5 on ImageNet)
    belong to it. A sample without label (-1) has no class enhanced. There is no factor T^2, as in the paper, whose temperature is 1.

    Raises:
        ValueError: other numbers of outputs, or a single class.
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(f"{student_logits.shape[-1]} outputs of the student's exit and {teacher_logits.shape[-1]} of the teacher")
    if student_logits.shape[-1] < 2:
        raise ValueError("a softmax over one class is always 1, so there is nothing to learn from it")
    log_q = log_softmax_at(student_logits, temperature)
    p = log_softmax_at(teacher_logits.detach(), temperature).exp()
    target = F.one_hot(labels.clamp(min=0), p.shape[-1]).to(p.dtype) * (labels >= 0)[:, None]
    enhanced = (p + target) ** epsilon
    wanted = enhanced - target if form == "code" else torch.where(target > 0, enhanced, p)
    return -(wanted * log_q).sum(-1)


class OFA(nn.Module):
    """The loss at an exit behind every tapped feature of the student, plus that at its own outputs.

    An exit is the authors': with n taps, the k-th halves its maps n - k times by depthwise separable convolutions that double the channels
    (the deepest tap has a 1x1 convolution), then comes the mean over positions and a linear layer. It ends in as many channels as the
    deepest tap has; the authors take the teacher's width where that is larger, but then a teacher whose logits are remembered would not
    do. Tokens are laid out as maps, where the authors use transformer blocks. Exits are trained along and not shipped.

    Args:
        epsilon: how much the target class is enhanced where the teacher is sure of it; 1 on CIFAR-100, 1.5 on ImageNet.
        temperature: softens teacher and exits.
        own_outputs: whether the student's own outputs are one more exit, as in the authors' code.
        form: of the loss, as the authors' code or their paper has it.
    """

    def __init__(
        self,
        epsilon: Annotated[float, Gt(0)] = 1.0,
        temperature: Annotated[float, Gt(0)] = 1.0,
        own_outputs: bool = True,
        form: Form = "code",
    ):
        super().__init__()
        self.epsilon, self.temperature, self.own_outputs = epsilon, temperature, own_outputs
        self.form: Form = form
        self.outputs = 0
        self.exits = nn.ModuleList()

    def set_outputs(self, outputs: int) -> None:
        self.outputs = outputs

    def build(self, student_shapes: dict[str, Shape], teacher_shapes: dict[str, Shape]) -> None:
        """Makes an exit for each tap.

        Raises:
            ValueError: nothing is tapped, or `set_outputs` was not called, or with a single output.
        """
        if not student_shapes or self.outputs < 2:
            what = "no feature of the student is tapped" if not student_shapes else f"{self.outputs} outputs are no choice of classes"
            raise ValueError(f"{what}, so exits can't be made")
        widths = [channels_of(shape) for shape in student_shapes.values()]
        made = []
        for number, shape in enumerate(student_shapes.values()):
            halvings = len(widths) - 1 - number if kind_of(shape) != "vectors" else None
            made.append(_exit(widths[number], widths[-1], halvings, self.outputs))
        self.exits = nn.ModuleList(made)

    def exit_logits(self, step: Step) -> list[Float[Tensor, "batch classes"]]:
        """What each exit says, in the order of taps.

        Raises:
            ValueError: `build` was not called, or for other taps.
        """
        features = [at_least_fp32(feature) for feature in step.student.features.values()]
        if len(features) != len(self.exits):
            raise ValueError(f"{len(self.exits)} exits for {len(features)} features; call build(student_shapes, teacher_shapes) first")
        shown = [feature if feature.ndim == 2 else as_maps(feature, feature) for feature in features]
        return [cast(Tensor, leave(feature)) for leave, feature in zip(self.exits, shown, strict=True)]

    def forward(self, step: Step) -> Tensor:
        logits = self.exit_logits(step) + ([step.student.logits] if self.own_outputs else [])
        teacher_logits, labels = step.teacher.logits, step.batch.labels
        values = [ofa_loss(one, teacher_logits, labels, self.epsilon, self.temperature, self.form) for one in logits]
        return torch.stack(values).sum(0)


def _exit(channels: int, width: int, halvings: int | None, outputs: int) -> nn.Sequential:
    """From a feature to logits; None halvings: from a vector."""
    layers: list[nn.Module] = []
    if halvings == 0:
        layers.append(nn.Conv2d(channels, width, 1))
    for number in range(halvings or 0):
        wider = width if number == halvings - 1 else 2 * channels  # type: ignore[operator]
        layers += _halving(channels, wider)
        channels = wider
    if halvings is not None:
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    leave = nn.Sequential(*layers, nn.Linear(channels if halvings is None else width, outputs))
    for layer in leave.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
    return leave


def _halving(channels: int, wider: int) -> list[nn.Module]:
    """Two depthwise separable convolutions, the first with stride 2."""
    layers: list[nn.Module] = []
    for stride, outputs in ((2, channels), (1, wider)):
        layers += [
            nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False),
            nn.Conv2d(channels, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    return layers
