"""Logit matching against the formula and torch, for classes and for regression."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from tests.reference.logit_mse import logit_mse_reference
from transfuse.objectives.outputs.logit_mse import LogitMSE, logit_mse_loss
from transfuse.testing import QUICK, Sizes, check_objective, example_step, reverse_classes


@pytest.mark.parametrize("over", ["mean", "sum"])
@pytest.mark.parametrize("task", ["regression", "classification"])
def test_logit_mse_is_proved(task, over):
    check_objective(
        LogitMSE,
        logit_mse_reference,
        {"over": over},
        make_step=partial(example_step, task=task),
        zero_at_equality=True,
        invariance={"outputs have no order": reverse_classes},
    )


def test_several_teachers_count_by_their_mean():
    check_objective(
        LogitMSE,
        logit_mse_reference,
        make_step=partial(example_step, teachers=3),
        zero_at_equality=True,
        checks=[check for check in QUICK if check != "function"],
    )
    step = example_step(Sizes(), teachers=3)
    objective = LogitMSE()
    logits = step.student.logits.clone().requires_grad_()
    step.student.logits = logits
    separate = sum(logit_mse_loss(logits, signals.logits) for signals in step.teachers.values()) / 3
    together = objective(step)
    gradients = [torch.autograd.grad(value.sum(), logits)[0] for value in (separate, together)]
    torch.testing.assert_close(gradients[0], gradients[1])


def test_it_is_torchs_squared_error():
    student, teacher = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(logit_mse_loss(student, teacher).mean(), F.mse_loss(student, teacher))


def test_one_output_against_many_is_refused_rather_than_broadcast(without_runtime_types):
    with pytest.raises(ValueError, match="differ in their outputs"):
        logit_mse_loss(torch.zeros(4, 1), torch.zeros(4, 3))
