"""The proof kit finds every kind of planted defect, each with the check that is there for it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

import pytest
import torch
import torch.nn.functional as F
from annotated_types import Gt
from torch import Tensor, nn

from tests.reference.kd import kd_reference
from transfuse.core import ranks
from transfuse.core.card import Card
from transfuse.core.types import Step
from transfuse.errors import TransfuseError
from transfuse.testing import CHECKS, QUICK, ObjectiveDefect, Particulars, check_objective, example_step, processes, shift_student_logits

CARD = Card(
    title="Good soft targets",
    paper="Hinton, Vinyals, Dean, 2015",
    link="https://arxiv.org/abs/1503.02531",
    level="sample",
    needs=("teacher.logits",),
    cost="nothing",
)


def good_loss(student_logits, teacher_logits, temperature=4.0):
    log_p = F.log_softmax(at_least_fp32(teacher_logits.detach()) / temperature, -1)
    log_q = F.log_softmax(at_least_fp32(student_logits) / temperature, -1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1) * temperature**2


def at_least_fp32(values):
    return values if values.dtype == torch.float64 else values.float()


class Good(nn.Module):
    """Soft targets, right.

    Args:
        temperature: of both.
    """

    def __init__(self, temperature: Annotated[float, Gt(0)] = 4.0):
        super().__init__()
        self.temperature = temperature

    def forward(self, step: Step) -> Tensor:
        return good_loss(step.student.logits, step.teacher.logits, self.temperature)


def from_function(formula: Callable[[Good, Step], Tensor], name: str = "Good") -> type[nn.Module]:
    """A class like Good with another forward."""
    return type(name, (Good,), {"forward": formula, "__doc__": Good.__doc__, "__module__": __name__})


def prove(objective_class: type[nn.Module], check: str, **settings: Any) -> None:
    settings.setdefault("zero_at_equality", True)
    check_objective(objective_class, settings.pop("reference", kd_reference), checks=[check], **settings)


def soft(step: Step, temperature: float) -> tuple[Tensor, Tensor]:
    return step.student.logits / temperature, step.teacher.logits.detach() / temperature


def wrong_factor(self, step):
    return 0.5 * good_loss(step.student.logits, step.teacher.logits, self.temperature)


def missing_square(self, step):
    return good_loss(step.student.logits, step.teacher.logits, self.temperature) / self.temperature**2


def divided_by_classes(self, step):
    student, teacher = soft(step, self.temperature)
    return F.kl_div(F.log_softmax(student, -1), F.softmax(teacher, -1), reduction="none").mean(-1) * self.temperature**2


def swapped(self, step):
    return good_loss(step.teacher.logits, step.student.logits.clone(), self.temperature)


def batch_mean(self, step):
    return good_loss(step.student.logits, step.teacher.logits, self.temperature).mean()


def cross_entropy_not_kl(self, step):
    student, teacher = soft(step, self.temperature)
    return -(F.softmax(teacher, -1) * F.log_softmax(student, -1)).sum(-1) * self.temperature**2


def undetached_teacher(self, step):
    student, teacher = step.student.logits / self.temperature, step.teacher.logits / self.temperature
    return F.kl_div(F.log_softmax(student, -1), F.log_softmax(teacher, -1), reduction="none", log_target=True).sum(-1) * self.temperature**2


def batch_normalised(self, step):
    values = good_loss(step.student.logits, step.teacher.logits, self.temperature)
    return values / values.detach().mean()


def root_at_zero(self, step):
    return (step.student.logits - step.teacher.logits.detach()).pow(2).sum(-1).sqrt()


def in_the_signals_precision(self, step):
    student, teacher = soft(step, self.temperature)
    return (F.kl_div(F.log_softmax(student, -1), F.softmax(teacher, -1), reduction="none").sum(-1) * self.temperature**2).float()


def half_precision_square(self, step):
    return (step.student.logits - step.teacher.logits.detach()).pow(2).sum(-1)


def log_of_softmax(self, step):
    student, teacher = soft(step, self.temperature)
    p, q = F.softmax(teacher, -1), F.softmax(student, -1)
    return (p * (p.log() - q.log())).sum(-1) * self.temperature**2


def divided_by_spread(self, step):
    student, teacher = (logits / logits.std(-1, keepdim=True) for logits in soft(step, 1.0))
    return good_loss(student, teacher, 1.0)


def divided_by_spread_and_little(self, step):
    student, teacher = ((logits - logits.mean(-1, keepdim=True)) / (logits.std(-1, keepdim=True) + 1e-6) for logits in soft(step, 1.0))
    return good_loss(student, teacher, 1.0)


def breaks_on_two_classes(self, step):
    return good_loss(step.student.logits[:, [0, 1, 2]], step.teacher.logits[:, [0, 1, 2]], self.temperature)


def no_gradient_on_two_classes(self, step):
    student = step.student.logits
    return (student - student.mean(-1, keepdim=True)).sort(-1).values[:, 1:-1].sum(-1) - good_loss(step.teacher.logits, step.teacher.logits)


def constant_gradient(self, step):
    return good_loss(step.student.logits.detach(), step.teacher.logits) + 0 * step.student.logits.sum(-1)


def no_gradient(self, step):
    return good_loss(step.student.logits.detach(), step.teacher.logits)


def hidden_label(self, step):
    return good_loss(step.student.logits, step.teacher.logits, self.temperature) * (step.batch.labels + 1).clamp(max=1)


def branch_on_value(self, step):
    values = good_loss(step.student.logits, step.teacher.logits, self.temperature)
    return values * 2 if torch.compiler.is_compiling() else values


PLANTED = {
    "a wrong factor": (wrong_factor, "value"),
    "a missing T squared": (missing_square, "value"),
    "a KL divided by the number of classes": (divided_by_classes, "value"),
    "teacher and student swapped": (swapped, "value"),
    "the batch's mean instead of one value per sample": (batch_mean, "value"),
    "a cross-entropy where a divergence is said": (cross_entropy_not_kl, "equality"),
    "a root whose slope at zero is infinite": (root_at_zero, "equality"),
    "a gradient that leaks to the teacher": (undetached_teacher, "gradient_flow"),
    "values that depend on the other samples": (batch_normalised, "halves"),
    "maths in the precision of its inputs": (in_the_signals_precision, "precision"),
    "an overflow in half precision": (half_precision_square, "extreme"),
    "a logarithm of a softmax": (log_of_softmax, "extreme"),
    "a division by the spread of constant logits": (divided_by_spread, "constant"),
    "a division by the spread and a little, whose slope is huge": (divided_by_spread_and_little, "constant"),
    "an index error with two classes": (breaks_on_two_classes, "small"),
    "no gradient with two classes": (no_gradient_on_two_classes, "small"),
    "a gradient that is not the derivative": (constant_gradient, "gradient"),
    "no gradient at all": (no_gradient, "gradient"),
    "labels used and not declared": (hidden_label, "needs"),
    "another function than the class": (wrong_factor, "function"),
    "compiled code that differs": (branch_on_value, "compiled"),
}


@pytest.mark.parametrize("defect", PLANTED)
def test_a_planted_defect_is_found(defect):
    formula, check = PLANTED[defect]
    with pytest.raises(ObjectiveDefect) as found:
        prove(from_function(formula), check)
    assert found.value.check == check


def test_a_right_objective_passes_every_check():
    check_objective(Good, kd_reference, zero_at_equality=True, invariance={"a softmax ignores shifts": shift_student_logits})


def test_the_quick_checks_leave_out_what_takes_seconds():
    assert set(CHECKS) - set(QUICK) == {"compiled", "two_processes", "inductor"}


def test_a_broken_invariance_is_found():
    with pytest.raises(ObjectiveDefect, match="raw logits ignore shifts"):
        prove(from_function(half_precision_square), "invariance", invariance={"raw logits ignore shifts": shift_student_logits})


def test_an_order_dependence_is_found():
    with pytest.raises(ObjectiveDefect, match="order"):
        prove(from_function(lambda self, step: step.student.logits[:, 0].cumsum(0)), "invariance")


def test_too_little_precision_in_float32_is_found():
    with pytest.raises(ObjectiveDefect, match="float64"):
        prove(
            from_function(
                lambda self, step: (
                    good_loss(step.student.logits.bfloat16().to(step.student.logits), step.teacher.logits.bfloat16())
                    if step.student.logits.dtype == torch.float32
                    else good_loss(step.student.logits, step.teacher.logits)
                )
            ),
            "float32",
        )


LABELS = replace(CARD, needs=("labels",))


class Hard(Good):
    """Cross-entropy.

    Args:
        temperature: unused.
    """

    def forward(self, step: Step) -> Tensor:
        log_q = F.log_softmax(step.student.logits, -1)
        labels = step.batch.labels
        return torch.where(labels >= 0, -log_q.gather(-1, labels.clamp(min=0)[:, None])[:, 0], 0.0)


class UnguardedLabels(Hard):
    __doc__ = Hard.__doc__

    def forward(self, step: Step) -> Tensor:
        log_q = F.log_softmax(step.student.logits, -1)
        labels = step.batch.labels
        return -log_q.gather(-1, labels.clamp(min=0)[:, None])[:, 0] / (labels >= 0)


class MeanOverLabelled(Hard):
    __doc__ = Hard.__doc__

    def forward(self, step: Step) -> Tensor:
        return super().forward(step) / step.batch.labelled.double().mean().clamp(min=0.1).to(step.student.logits)


@pytest.mark.parametrize("objective_class", [UnguardedLabels, MeanOverLabelled])
def test_harm_from_unlabelled_samples_is_found(objective_class):
    prove(Hard, "unlabelled", particulars=Particulars(card=LABELS))
    with pytest.raises(ObjectiveDefect):
        prove(objective_class, "unlabelled", particulars=Particulars(card=LABELS))


class WithParameter(Good):
    __doc__ = Good.__doc__

    def __init__(self, temperature: Annotated[float, Gt(0)] = 4.0):
        super().__init__(temperature)
        self.offset = nn.Parameter(torch.zeros(1))

    def forward(self, step: Step) -> Tensor:
        return good_loss(step.student.logits * (1 + self.offset), step.teacher.logits, self.temperature)


class Unregistered(WithParameter):
    __doc__ = Good.__doc__

    def __init__(self, temperature: Annotated[float, Gt(0)] = 4.0):
        super().__init__(temperature)
        self.scales = [torch.ones(1, requires_grad=True)]  # in a plain list no optimiser finds it


class UnsavedState(Good):
    __doc__ = Good.__doc__

    def __init__(self, temperature: Annotated[float, Gt(0)] = 4.0):
        super().__init__(temperature)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, step: Step) -> Tensor:
        if self.training:
            self.seen += 1
        return good_loss(step.student.logits, step.teacher.logits, self.temperature) * (1 + self.seen)


class IdleParameter(WithParameter):
    __doc__ = Good.__doc__
    forward = Good.forward


@pytest.mark.parametrize(("objective_class", "check"), [(Unregistered, "saved"), (UnsavedState, "saved"), (IdleParameter, "gradient_flow")])
def test_badly_kept_state_is_found(objective_class, check):
    prove(WithParameter, check)
    with pytest.raises(ObjectiveDefect) as found:
        prove(objective_class, check)
    assert found.value.check == check


class ReversedGradient(WithParameter):
    __doc__ = Good.__doc__

    def forward(self, step: Step) -> Tensor:
        backwards = 2 * self.offset.detach() - self.offset  # the value of offset, the opposite slope
        return good_loss(step.student.logits * (1 + backwards), step.teacher.logits, self.temperature)


def reversed_surrogate(objective, step, objective_0, step_0):
    def plain(offset, logits):
        return good_loss(logits * (1 + offset), step_0.teacher.logits, objective.temperature)

    return plain(objective_0.offset, step.student.logits) - plain(objective.offset, step_0.student.logits)


def test_a_deliberate_other_gradient_is_held_to_its_surrogate():
    prove(ReversedGradient, "gradient", particulars=Particulars(surrogate=reversed_surrogate))
    for objective_class, particulars in ((ReversedGradient, None), (WithParameter, Particulars(surrogate=reversed_surrogate))):
        with pytest.raises(ObjectiveDefect, match="gradient"):
            prove(objective_class, "gradient", particulars=particulars)


def untyped(self, temperature=4.0):
    Good.__init__(self, temperature)


def undescribed(self, temperature: float = 4.0, other: int = 0):
    Good.__init__(self, temperature)


def forbidden_default(self, temperature: Annotated[float, Gt(0)] = 0.0):
    Good.__init__(self, temperature)


def not_plain(self, temperature: torch.Generator | None = None):
    Good.__init__(self)


@pytest.mark.parametrize("constructor", [untyped, undescribed, forbidden_default, not_plain])
def test_a_constructor_that_can_not_be_a_recipe_block_is_found(constructor):
    with pytest.raises(ObjectiveDefect, match="schema"):
        prove(type("Good", (Good,), {"__init__": constructor, "__doc__": Good.__doc__, "__module__": __name__}), "schema")


@pytest.mark.parametrize("change", [{"title": ""}, {"paper": ""}, {"link": "arxiv"}, {"cost": ""}])
def test_an_incomplete_card_is_found(change):
    with pytest.raises(ObjectiveDefect, match="card"):
        prove(Good, "card", particulars=Particulars(card=replace(CARD, **change)))


def test_a_missing_function_and_other_defaults_are_found():
    with pytest.raises(ObjectiveDefect, match="no function named"):
        prove(from_function(Good.forward, "Nameless"), "function")

    def init(self, temperature: float = 2.0):
        Good.__init__(self, temperature)

    other = type("Good", (Good,), {"__init__": init, "__doc__": Good.__doc__, "__module__": __name__})
    with pytest.raises(ObjectiveDefect, match="other defaults"):
        prove(other, "function")


@pytest.mark.parametrize(("error", "accepted"), [(ValueError("a softmax over two classes has no rest"), True), (ValueError("no"), False)])
def test_a_refusal_needs_a_reason(error, accepted):
    def forward(self, step):
        if step.student.logits.shape[-1] == 2:
            raise error
        return good_loss(step.student.logits, step.teacher.logits, self.temperature)

    if accepted:
        prove(from_function(forward), "small")
    else:
        with pytest.raises(ObjectiveDefect, match="reason"):
            prove(from_function(forward), "small")


BATCH = replace(CARD, level="batch")


def spread_reference(student_logits, teacher_logits):
    rows = len(student_logits)
    return sum(((student_logits[i] - student_logits[j]) ** 2).sum() for i in range(rows) for j in range(rows)) / rows**2


def spread(logits: Tensor) -> Tensor:
    return (logits[:, None] - logits).pow(2).sum(-1).mean()


def test_a_relation_within_the_own_process_only_is_found():
    own = from_function(lambda self, step: spread(step.student.logits))
    prove(own, "value", reference=spread_reference, particulars=Particulars(card=BATCH))
    with pytest.raises(ObjectiveDefect) as found:
        prove(OwnRows, "two_processes", reference=spread_reference, particulars=Particulars(card=BATCH))
    assert found.value.check == "two_processes"
    prove(GatheredRows, "two_processes", reference=spread_reference, particulars=Particulars(card=BATCH))


class OtherInProcesses(Good):
    def forward(self, step: Step) -> Tensor:
        return super().forward(step) * (1 + ranks.rank())


class FailsInProcesses(Good):
    def forward(self, step: Step) -> Tensor:
        if ranks.world_size() > 1:
            raise RuntimeError("no second process, please")
        return super().forward(step)


@pytest.mark.parametrize(("objective_class", "words"), [(OtherInProcesses, "differ"), (FailsInProcesses, "no second process, please")])
def test_trouble_in_processes_is_found_and_told(objective_class, words):
    with pytest.raises(ObjectiveDefect, match=words):
        prove(objective_class, "two_processes")
    prove(Good, "two_processes")  # the group works again, or is started anew


def test_a_class_that_processes_can_not_import_is_told_so():
    with pytest.raises(ObjectiveDefect, match="importable"):
        prove(from_function(Good.forward), "two_processes")


class OwnRows(Good):
    def forward(self, step: Step) -> Tensor:
        return spread(step.student.logits)


class GatheredRows(WithParameter):
    def forward(self, step: Step) -> Tensor:
        return spread(ranks.gather_rows(step.student.logits * (1 + self.offset)))


def gathered_sizes(rows: int) -> tuple[int, Tensor]:
    mine = torch.full((rows, 2), float(ranks.rank()), requires_grad=True)
    everybody = ranks.gather_rows(mine)
    (everybody * torch.arange(len(everybody))[:, None]).sum().backward()
    assert mine.grad is not None
    return len(everybody), mine.grad[:, 0]


def test_ranks_may_hold_different_numbers_of_rows():
    (first, gradient), (second, other) = processes().call(gathered_sizes, [(1,), (3,)])
    assert first == second == 4
    assert torch.cat([gradient, other]).tolist() == [0, 2, 4, 6]


def test_a_batch_without_student_and_a_teacher_of_another_width_are_told_apart():
    with pytest.raises(ObjectiveDefect, match="differ in shape"):
        prove(
            Good,
            "equality",
            make_step=lambda sizes: replace(example_step(sizes), teachers=example_step(replace(sizes, classes=9)).teachers),
        )


def test_unknown_checks_are_refused():
    with pytest.raises(ValueError, match="known: card"):
        prove(Good, "beauty")


def test_a_reference_that_asks_for_what_is_not_there_is_told_what_is():
    def wrong(student_logits, teacher_logitz):
        return 0.0

    with pytest.raises(TypeError, match=r"teacher_logitz.*teacher_logits"):
        prove(Good, "value", reference=wrong)


def test_inductor_is_left_out_without_a_compiler_and_that_is_said(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.warns(UserWarning, match="no C\\+\\+ compiler"):
        prove(from_function(branch_on_value), "inductor")


def test_a_transfuse_error_is_a_refusal_too():
    def forward(self, step):
        if len(step.batch) == 1:
            raise TransfuseError("one sample has no relations", fix="use larger batches")
        return good_loss(step.student.logits, step.teacher.logits, self.temperature)

    prove(from_function(forward), "small")
