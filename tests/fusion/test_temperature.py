"""Temperatures: the factor that was put in comes out, and the slope at the minimum is 0."""

import torch

from tests.fusion.outputs.panel import LOUD, said
from transfuse.fusion.temperature import WIDEST, fit_temperatures, label_loss


def test_a_source_whose_logits_were_multiplied_gets_that_factor_more():
    outputs, labels = said(2000)
    plain = fit_temperatures(outputs / torch.tensor(LOUD, dtype=torch.float64)[:, None, None], labels, "classification")
    loud = fit_temperatures(outputs, labels, "classification")
    assert torch.allclose(loud / plain, torch.tensor(LOUD, dtype=torch.float64), rtol=1e-3)


def test_the_slope_of_the_loss_is_0_at_the_temperature_found():
    for task in ("classification", "multilabel"):
        outputs, labels = said(500, task=task)
        for source, temperature in enumerate(fit_temperatures(outputs, labels, task)):
            inverse = (1 / temperature).requires_grad_()
            label_loss(outputs[source] * inverse, labels, task).mean().backward()
            assert abs(float(inverse.grad)) < 1e-4


def test_a_source_that_is_always_right_or_says_nothing_gets_a_bound_and_not_nan():
    labels = torch.arange(8) % 4
    right = torch.nn.functional.one_hot(labels, 4).double()[None]
    assert WIDEST[0] <= float(fit_temperatures(right, labels, "classification")[0]) < 0.1
    assert torch.isfinite(fit_temperatures(torch.zeros(1, 8, 4, dtype=torch.float64), labels, "classification")).all()
