"""Mean squared error against the formula and torch, with unknown targets."""

import pytest
import torch
import torch.nn.functional as F

from tests.reference.regression import mse_reference
from transfuse.objectives.labels.mse import MSE, mse_loss
from transfuse.testing import Sizes, check_objective, example_step, reverse_classes, run


def partly_known(sizes):
    step = example_step(sizes, task="regression")
    step.batch.labels[0, 0] = step.batch.labels[-1, -1] = float("nan")
    return step


def test_mse_is_proved():
    check_objective(MSE, mse_reference, make_step=partly_known, invariance={"targets have no order": reverse_classes})


def test_it_is_torchs():
    logits, targets = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(mse_loss(logits, targets).mean(), F.mse_loss(logits, targets))


def test_unknown_targets_give_no_value_and_a_zero_gradient():
    step = partly_known(Sizes())
    step.batch.labels[1] = float("nan")
    outcome = run(MSE(), step)
    assert outcome.values[1] == 0
    assert torch.equal(outcome.gradients["student.logits"][1], torch.zeros(5, dtype=torch.float64))
    assert outcome.gradients["student.logits"][0, 0] == 0
    assert outcome.gradients["student.logits"][0, 1] != 0


def test_shapes_that_torch_would_broadcast_are_refused(without_runtime_types):
    with pytest.raises(ValueError, match="differ in shape"):
        mse_loss(torch.zeros(6, 3), torch.zeros(6, 1))
