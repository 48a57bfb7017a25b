"""Huber loss against the formula and torch; between squared and absolute error."""

import pytest
import torch
import torch.nn.functional as F

from tests.reference.regression import huber_reference
from transfuse.objectives.labels.huber import Huber, huber_loss
from transfuse.objectives.labels.mse import mse_loss
from transfuse.testing import check_objective, example_step, reverse_classes


def partly_known(sizes):
    step = example_step(sizes, task="regression")
    step.batch.labels[0, 0] = step.batch.labels[-1, -1] = float("nan")
    return step


@pytest.mark.parametrize("delta", [0.5, 1.345])
def test_huber_is_proved(delta):
    check_objective(Huber, huber_reference, {"delta": delta}, make_step=partly_known, invariance={"targets have no order": reverse_classes})


def test_it_lies_between_squared_and_absolute_error():
    logits, targets = 3 * torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(huber_loss(logits, targets, 1e6), mse_loss(logits, targets) / 2)
    torch.testing.assert_close(huber_loss(logits, targets, 1e-4) / 1e-4, (logits - targets).abs().mean(-1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(huber_loss(logits, targets, 1.0).mean(), F.huber_loss(logits, targets))
