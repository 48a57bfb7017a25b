"""Every check of the kit passes a right objective and fails one with the defect that the check is there for."""

from dataclasses import replace

import pytest
import torch

from tests.reference.kd import kd_reference
from tests.testing import test_objective_kit as kit
from tests.testing import test_objective_kit_features as maps
from transfuse.core import ranks
from transfuse.core.types import Step
from transfuse.engine.precision import has_cpp_compiler
from transfuse.testing import CHECKS, ObjectiveDefect, Particulars, check_objective, example_step, shift_student_logits

SHIFTS = {"a softmax ignores shifts": shift_student_logits}


def planted(formula, **settings):
    return kit.from_function(formula), settings


def rounded(self, step):
    """The maths of float32 in bfloat16."""
    student = step.student.logits
    return kit.good_loss(student.bfloat16().to(student) if student.dtype == torch.float32 else student, step.teacher.logits)


def constructor(self, temperature=4.0):
    kit.Good.__init__(self, temperature)


def waits_for_the_device(self, step):
    values = kit.good_loss(step.student.logits, step.teacher.logits, self.temperature)
    return values * 2 if values.sum().item() < 0 else values


# check -> an objective that it has to fail, and what else check_objective is told
DEFECTS = {
    "card": (kit.Good, {"particulars": Particulars(card=replace(kit.CARD, link="arxiv"))}),
    "schema": (type("Good", (kit.Good,), {"__init__": constructor, "__doc__": kit.Good.__doc__, "__module__": kit.__name__}), {}),
    "value": planted(kit.missing_square),
    "equality": planted(kit.cross_entropy_not_kl),
    "invariance": planted(kit.half_precision_square),
    "halves": planted(kit.batch_normalised),
    "function": planted(kit.wrong_factor),
    "needs": planted(kit.hidden_label),
    "gradient_flow": planted(kit.undetached_teacher),
    "gradient": planted(kit.constant_gradient),
    "saved": (kit.UnsavedState, {}),
    "float32": planted(rounded),
    "precision": planted(kit.in_the_signals_precision),
    "extreme": planted(kit.log_of_softmax),
    "constant": planted(kit.divided_by_spread),
    "small": planted(kit.breaks_on_two_classes),
    "unlabelled": (kit.UnguardedLabels, {"particulars": Particulars(card=kit.LABELS)}),
    "compiled": planted(kit.branch_on_value),
    "two_processes": (kit.OtherInProcesses, {}),
    "gpu": planted(waits_for_the_device),
    "inductor": planted(kit.branch_on_value),
}


@pytest.mark.parametrize("check", CHECKS)
def test_a_check_passes_what_is_right_and_fails_what_is_wrong(check):
    if check == "inductor" and not has_cpp_compiler():
        pytest.skip("inductor builds CPU code with a C++ compiler, and there is none")
    if check == "gpu" and not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    check_objective(kit.Good, kd_reference, zero_at_equality=True, invariance=SHIFTS, checks=[check])
    wrong, settings = DEFECTS[check]
    with pytest.raises(ObjectiveDefect) as found:
        check_objective(wrong, kd_reference, zero_at_equality=True, invariance=SHIFTS, checks=[check], **settings)
    assert found.value.check == check


def test_a_wait_for_the_device_in_each_step_is_found_unless_it_is_owned_up_to():
    waiting = kit.from_function(waits_for_the_device)
    with pytest.raises(ObjectiveDefect, match="can't be compiled"):
        check_objective(waiting, kd_reference, checks=["compiled"])
    check_objective(waiting, kd_reference, checks=["compiled"], particulars=Particulars(graph_breaks="a branch on the value"))


def spread_over_the_batch(self, step):
    return step.student.logits.std(0).sum()


def test_a_value_that_one_sample_does_not_have_is_found():
    particulars = Particulars(card=kit.BATCH)
    with pytest.raises(ObjectiveDefect, match="one sample"):
        check_objective(kit.from_function(spread_over_the_batch), spread_reference, checks=["small"], particulars=particulars)


def spread_reference(student_logits):
    return sum(student_logits[:, c].std(ddof=1) for c in range(student_logits.shape[1]))


@pytest.mark.parametrize(("spatial", "words"), [("student_spatial", "a smaller student map"), ("teacher_spatial", "a smaller teacher map")])
def test_each_unequal_size_is_tried(spatial, words):
    class OneSideOnly(maps.Hint):
        __doc__ = maps.Hint.__doc__

        def forward(self, step: Step):
            (student,), (teacher,) = step.student.features.values(), step.teacher.features.values()
            smaller = student if spatial == "student_spatial" else teacher
            larger = teacher if spatial == "student_spatial" else student
            if smaller.shape[2] < larger.shape[2]:
                raise IndexError("maps of another size")
            return super().forward(step)

    particulars = replace(maps.PARTICULARS, card=maps.CARD)
    with pytest.raises(ObjectiveDefect, match=f"{words}: IndexError"):
        check_objective(OneSideOnly, maps.hint_reference, checks=["small"], particulars=particulars)


def test_a_wrong_resize_is_found_at_unequal_sizes_only():
    particulars = replace(maps.PARTICULARS, card=maps.CARD)
    check_objective(maps.ResizedWrongly, maps.hint_reference, checks=["value", "halves", "gradient"], particulars=particulars)
    with pytest.raises(ObjectiveDefect, match=r"a smaller student map: .* instead of"):
        check_objective(maps.ResizedWrongly, maps.hint_reference, checks=["small"], particulars=particulars)


def test_a_reference_that_takes_equal_sizes_for_granted_is_found():
    def equal_sizes_only(student_features, teacher_features, state, factor):
        if student_features.shape != teacher_features.shape:
            raise ValueError("operands could not be broadcast together")
        return maps.hint_reference(student_features, teacher_features, state, factor)

    particulars = replace(maps.PARTICULARS, card=maps.CARD)
    with pytest.raises(ObjectiveDefect, match="write the resizing into the reference"):
        check_objective(maps.Hint, equal_sizes_only, checks=["small"], particulars=particulars)


def with_a_head(sizes):
    generator = torch.Generator().manual_seed(sizes.seed)
    head = torch.randn(sizes.classes, sizes.classes, generator=generator, dtype=torch.float64)
    return replace(example_step(sizes), parameters={"head": head})


class ReadsTheHead(kit.Good):
    """Soft targets through the student's head.

    Args:
        temperature: of both.
    """

    def forward(self, step: Step):
        return kit.good_loss(step.student.logits @ step.parameters["head"].to(step.student.logits), step.teacher.logits, self.temperature)


def head_reference(student_logits, teacher_logits, labels, parameters, temperature):
    return kd_reference(student_logits @ parameters["head"], teacher_logits, labels, temperature)


def test_the_students_head_is_a_need_and_its_gradient_is_summed_over_processes():
    owned = Particulars(card=replace(kit.CARD, needs=("teacher.logits", "student.head")))
    for check in ("value", "needs", "gradient", "two_processes"):
        check_objective(ReadsTheHead, head_reference, make_step=with_a_head, checks=[check], particulars=owned)
    particulars = Particulars(card=kit.CARD)
    with pytest.raises(ObjectiveDefect, match="needs"):
        check_objective(ReadsTheHead, head_reference, make_step=with_a_head, checks=["needs"], particulars=particulars)


class KeepsItsOwnHead(ReadsTheHead):
    __doc__ = ReadsTheHead.__doc__

    def forward(self, step: Step):
        return super().forward(step) * (1 + ranks.rank())


def test_another_gradient_of_the_head_in_each_process_is_found():
    owned = Particulars(card=replace(kit.CARD, needs=("teacher.logits", "student.head")))
    with pytest.raises(ObjectiveDefect, match="two processes and one differ"):
        check_objective(KeepsItsOwnHead, head_reference, make_step=with_a_head, checks=["two_processes"], particulars=owned)
