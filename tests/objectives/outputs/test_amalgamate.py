"""The join of class sets: against its optimality condition, on disjoint and overlapping sets, and what overlaps settle."""

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch.utils._python_dispatch import TorchDispatchMode

from tests.reference.amalgamate import amalgamate_reference
from transfuse.core.numerics import UNKNOWN
from transfuse.objectives.outputs.amalgamate import Amalgamate, amalgamate_loss, joined
from transfuse.recipe.methods import objective_block
from transfuse.testing import QUICK, Particulars, Sizes, check_objective, example_step, reverse_classes, shift_student_logits

FACTS = {"a softmax ignores shifts": shift_student_logits, "classes have no order": reverse_classes}
EXACT = Particulars(tolerance=1e-6)  # of the root finder in the reference


def knowing(*sets):
    """Steps whose teachers know some of the classes each: sets are (first, last) as shares of all classes."""

    def make(sizes):
        step = example_step(sizes, teachers=len(sets))
        classes = torch.arange(sizes.classes)
        teachers = {}
        for (first, last), (name, signals) in zip(sets, step.teachers.items(), strict=True):
            known = (classes >= math.floor(first * sizes.classes)) & (classes < math.ceil(last * sizes.classes))
            teachers[name] = replace(signals, logits=signals.logits.masked_fill(~known, UNKNOWN))
        return replace(step, teachers=teachers)

    return make


OVERLAPPING, DISJOINT, THREE = knowing((0, 0.6), (0.4, 1)), knowing((0, 0.5), (0.75, 1)), knowing((0, 0.5), (0.4, 0.8), (0.2, 1))


def test_the_join_of_overlapping_sets_is_proved():
    check_objective(Amalgamate, amalgamate_reference, make_step=OVERLAPPING, invariance=FACTS, particulars=EXACT)


@pytest.mark.parametrize("arguments", [{"evidence": "equal"}, {"temperature": 3.0, "mixture": 2.0}, {"mixture": 0.01}])
@pytest.mark.parametrize("make_step", [DISJOINT, THREE], ids=["disjoint", "three"])
def test_other_settings_and_sets_are_proved(arguments, make_step):
    check_objective(
        Amalgamate, amalgamate_reference, arguments, make_step, checks=("value", "gradient", "extreme", "constant"), particulars=EXACT
    )


def test_teachers_that_know_all_classes_and_agree_are_one_teacher():
    check_objective(Amalgamate, amalgamate_reference, zero_at_equality=True, checks=QUICK, particulars=EXACT)


def logits_of(probabilities, sets, classes):
    """Teachers' logits from probabilities over their own classes, all of one energy."""
    found = []
    for values, known in zip(probabilities, sets, strict=True):
        row = torch.full((1, classes), UNKNOWN, dtype=torch.float64)
        row[0, known] = torch.tensor(values, dtype=torch.float64).log()
        found.append(row)
    return found


def test_disjoint_sets_at_temperature_one_are_the_softmax_of_all_logits_side_by_side():
    step = DISJOINT(Sizes())
    first, second = (signals.logits for signals in step.teachers.values())
    together = torch.where(first > UNKNOWN, first, second)
    torch.testing.assert_close(joined([first, second]).exp(), together.softmax(-1))


def test_what_truly_comes_from_one_distribution_is_found_again_through_the_overlap():
    truth = torch.tensor([0.5, 0.2, 0.1, 0.15, 0.05], dtype=torch.float64)
    sets = [[0, 1, 2], [2, 3, 4]]
    conditional = [(truth[known] / truth[known].sum()).tolist() for known in sets]
    found = joined(logits_of(conditional, sets, 5), evidence="equal", mixture=1e-3).exp()[0]
    torch.testing.assert_close(found, truth, rtol=1e-2, atol=1e-3)
    blind = joined(logits_of(conditional, sets, 5), evidence="equal", mixture=1e6).exp()[0]
    assert (blind - truth).abs().max() > 0.05  # the mixture alone can't know it


def test_the_teacher_that_finds_the_shared_classes_likelier_is_the_one_that_is_lost():
    sets = [[0, 1, 2], [2, 3, 4]]
    sure_of_its_own, lost = [0.98, 0.01, 0.01], [0.9, 0.05, 0.05]
    found = joined(logits_of([sure_of_its_own, lost], sets, 5), evidence="equal").exp()[0]
    assert found[0] > 0.85
    assert found[3:].sum() < 0.05


def test_a_class_that_nobody_knows_gets_no_probability():
    found = joined(logits_of([[0.7, 0.3], [0.4, 0.6]], [[0, 1], [1, 2]], 4)).exp()[0]
    assert found[3] == 0
    assert found.sum() == pytest.approx(1)


def test_one_teacher_is_taken_at_its_word_and_none_is_refused():
    logits = torch.randn(3, 4)
    torch.testing.assert_close(joined([logits]), logits.log_softmax(-1))
    with pytest.raises(ValueError, match="at least one teacher"):
        joined([])


def test_other_numbers_of_outputs_are_refused(without_runtime_types):
    with pytest.raises(ValueError, match="differ in their outputs"):
        amalgamate_loss(torch.zeros(2, 4), [torch.zeros(2, 3)])


def test_a_single_output_is_refused():
    with pytest.raises(ValueError, match="softmax over one logit"):
        amalgamate_loss(torch.zeros(2, 1), [torch.zeros(2, 1)])


def test_a_mixture_too_small_for_newtons_rounds_is_refused():
    block = objective_block("amalgamate")
    assert block.model_validate({"mixture": 1e-3})
    with pytest.raises(ValidationError, match=r"greater than or equal to 0\.001"):
        block.model_validate({"mixture": 9e-4})


def test_at_the_smallest_mixture_the_join_is_still_the_minimum():
    sets = [slice(0, 4), slice(3, 7), slice(6, 10)]
    logits = torch.full((3, 64, 10), UNKNOWN, dtype=torch.float64)
    for rows, known in zip(logits, sets, strict=True):
        rows[:, known] = 3 * torch.randn(64, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(known.start))
    log_q = joined(list(logits), evidence="equal", mixture=1e-3).requires_grad_()
    p = logits.softmax(-1)
    value = -1e-3 * (p.mean(0) * log_q.log_softmax(-1)).sum()
    for own, known in zip(p, sets, strict=True):
        value = value - (own[:, known] * log_q[:, known].log_softmax(-1)).sum() / 3
    assert torch.autograd.grad(value, log_q)[0].abs().max() < 1e-9


class NoAnswer(TorchDispatchMode):
    """Refuses what reads a value back from the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.name() not in ("aten::_linalg_check_errors", "aten::_local_scalar_dense", "aten::nonzero"), func
        return func(*args, **(kwargs or {}))


def test_no_round_waits_for_the_device():
    step = THREE(Sizes())
    logits = [signals.logits for signals in step.teachers.values()]
    with NoAnswer():
        amalgamate_loss(step.student.logits, logits)
