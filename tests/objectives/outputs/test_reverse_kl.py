"""Reverse KL against the formula; what a top-k teacher without its tail would do to it."""

from functools import partial

import pytest
import torch

from tests.reference.reverse_kl import reverse_kl_reference
from transfuse.core.numerics import top_k
from transfuse.objectives.outputs.kd import kd_loss
from transfuse.objectives.outputs.reverse_kl import ReverseKL, reverse_kl_loss
from transfuse.testing import QUICK, Particulars, check_objective, example_step, reverse_classes, shift_student_logits


def test_reverse_kl_is_proved():
    invariance = {"a softmax ignores shifts": shift_student_logits, "classes have no order": reverse_classes}
    check_objective(ReverseKL, reverse_kl_reference, {"temperature": 2.0}, zero_at_equality=True, invariance=invariance)


def test_reverse_kl_is_proved_for_independent_labels():
    check_objective(
        ReverseKL,
        reverse_kl_reference,
        make_step=partial(example_step, task="multilabel"),
        zero_at_equality=True,
        checks=QUICK,
        particulars=Particulars(
            function=lambda objective, step: reverse_kl_loss(step.student.logits, step.teacher.logits, 1.0, "bernoulli"),
            skip={"needs": "auto reads from the labels' type that classes are independent; the values of labels play no part"},
        ),
    )


def test_it_is_kd_with_the_roles_swapped():
    student, teacher = torch.randn(2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(reverse_kl_loss(student, teacher, 3.0), kd_loss(teacher, student, 3.0))


@pytest.mark.parametrize("loss", [kd_loss, reverse_kl_loss])
def test_the_best_student_of_a_top_1_teacher_is_as_sure_as_the_teacher(loss):
    """Without a tail, minimising the truncated reverse KL drives the kept probability 0.9 to 0.9 / e."""
    teacher = torch.log(torch.tensor([[0.9, 0.06, 0.04]], dtype=torch.float64))
    student = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([student], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss(student, top_k(teacher, 1), 1.0).sum()
        value.backward()
        return value

    optimizer.step(closure)
    assert student.softmax(-1)[0, 0].item() == pytest.approx(0.9, abs=1e-4)
