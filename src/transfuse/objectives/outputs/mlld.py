"""Agreement at three levels, for two views: each prediction, the classes' co-occurrence, the samples' likeness."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Gt, MinLen
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import kl_divergence, log_softmax_at
from transfuse.core.ranks import gather_rows
from transfuse.core.types import Step
from transfuse.objectives.outputs._divergence import require_classes, require_same_outputs, require_temperature

CARD = Card(
    title="Multi-level logit distillation (MLLD)",
    paper="Jin, Wang, Lin, 2023, CVPR",
    link="https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html",
    level="batch",
    needs=("teacher.logits.dense", "two_views"),
    paper_weight=0.9,
    tasks=("classification",),
    cost="a second view, strongly augmented where augment.second says so: two forward passes of student and teacher per step",
)

Form = Literal["formula", "code"]
TEMPERATURES = (4.0, 3.0, 5.0, 2.0, 6.0)


def mlld_loss(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    second_student_logits: Float[Tensor, "batch classes"],
    second_teacher_logits: Float[Tensor, "batch classes"],
    temperatures: Sequence[float] | None = None,
    form: Form = "formula",
) -> Float[Tensor, ""]:
    """sum_T [KD_T(weak) + KD_T(strong) + CC_T(weak) + BC_T(weak)] with p, q the teacher's and student's probabilities at T, [batch,
    classes].

    KD_T = T^2 mean_i KL(p_i || q_i). CC_T = ||p'p - q'q||^2 / classes, BC_T = ||pp' - qq'||^2 / batch (squared Frobenius norms). The first
    view is the weakly augmented one, the second the strongly augmented one.

    form: "formula" computes the above. "code" repeats what the authors' released code computes, with which their figures were made: there
    the selection of samples and classes multiplies terms that are already averaged, so it scales KD(weak) and BC by the fraction of samples
    whose highest teacher probability is at most the median, and CC by the fraction of classes whose summed teacher probability is at most
    the median (both about 1/2); and KD(strong) takes the weak logits at the last two temperatures.

    Raises:
        ValueError: no or non-positive temperatures, other numbers of outputs, a single class.
    """
    temperatures = TEMPERATURES if temperatures is None else tuple(temperatures)
    for temperature in temperatures:
        require_temperature(temperature)
    if not temperatures:
        raise ValueError("temperatures is empty; give at least one, such as [4]")
    require_same_outputs(student_logits, teacher_logits)
    require_same_outputs(second_student_logits, second_teacher_logits)
    require_classes(student_logits)
    teacher_logits, second_teacher_logits = teacher_logits.detach(), second_teacher_logits.detach()
    selected_samples, selected_classes = _selected(teacher_logits) if form == "code" else (1.0, 1.0)
    total = torch.zeros((), dtype=log_softmax_at(student_logits).dtype, device=student_logits.device)
    for number, temperature in enumerate(temperatures):
        log_p, log_q = log_softmax_at(teacher_logits, temperature), log_softmax_at(student_logits, temperature)
        strong_log_p, strong_log_q = (log_softmax_at(logits, temperature) for logits in (second_teacher_logits, second_student_logits))
        if form == "code" and len(temperatures) > 2 and number >= len(temperatures) - 2:
            strong_log_p, strong_log_q = log_p, log_q
        total = total + selected_samples * temperature**2 * kl_divergence(log_p, log_q).mean()
        total = total + temperature**2 * kl_divergence(strong_log_p, strong_log_q).mean()
        p, q = log_p.exp(), log_q.exp()
        total = total + selected_classes * (p.T @ p - q.T @ q).square().sum() / p.shape[1]
        total = total + selected_samples * (p @ p.T - q @ q.T).square().sum() / p.shape[0]
    return total


def _selected(teacher_logits: Float[Tensor, "batch classes"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    p = log_softmax_at(teacher_logits).exp()
    highest, mass = p.max(-1).values, p.sum(0)
    return _at_most_the_middle(highest), _at_most_the_middle(mass)


def _at_most_the_middle(values: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """The share of values that are no larger than their median, which lies between the two in the middle where there are two."""
    ordered = values.sort().values
    middle = (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2
    return (values <= middle).to(values.dtype).mean()


class MLLD(nn.Module):
    """Multi-level agreement with one teacher, over two views of the batch of all processes.

    The paper's second view is strongly augmented (RandAugment). Here it is what the recipe's `augment.second` names, such as
    {crop: 4, flip: true, randaugment: true}; without that it is the next view by the changes of the first, no stronger than it.

    Args:
        temperatures: at which predictions are compared, all of them added up; null is the paper's 4, 3, 5, 2, 6.
        form: formula for what the paper describes, code for what the authors' released code computes.
    """

    def __init__(
        self,
        temperatures: Annotated[list[Annotated[float, Gt(0)]], MinLen(1)] | None = None,
        form: Form = "formula",
    ):
        super().__init__()
        self.temperatures = temperatures
        self.form: Form = form

    def forward(self, step: Step) -> Tensor:
        if step.second is None:
            raise ValueError("mlld compares two views of each sample, and the step has one")
        pairs = [step.student.logits, step.teacher.logits, step.second.student.logits, step.second.teacher.logits]
        weak_student, weak_teacher, strong_student, strong_teacher = (gather_rows(logits) for logits in pairs)
        return mlld_loss(weak_student, weak_teacher, strong_student, strong_teacher, self.temperatures, self.form)
