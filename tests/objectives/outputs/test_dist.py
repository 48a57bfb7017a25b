"""DIST against the formula and numpy's correlation; what a scale in the probabilities does not change; where it degenerates."""

import numpy as np
import pytest
import torch

from tests.reference.dist import dist_reference
from transfuse.objectives.outputs.dist import DIST, dist_loss
from transfuse.testing import check_objective, reverse_classes, shift_student_logits


@pytest.mark.parametrize("arguments", [{}, {"inter": 0.0, "temperature": 4.0}, {"intra": 0.0}])
def test_dist_is_proved(arguments):
    invariance = {"a softmax ignores shifts": shift_student_logits, "classes have no order": reverse_classes}
    check_objective(DIST, dist_reference, arguments, zero_at_equality=True, invariance=invariance)


def test_the_parts_are_numpys_correlations():
    student, teacher = torch.randn(2, 8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    p, q = (logits.softmax(-1).numpy() for logits in (teacher, student))
    rows = np.mean([1 - np.corrcoef(p[i], q[i])[0, 1] for i in range(8)])
    columns = np.mean([1 - np.corrcoef(p[:, c], q[:, c])[0, 1] for c in range(5)])
    assert dist_loss(student, teacher, 1.0, 0.0).item() == pytest.approx(rows, rel=1e-9)
    assert dist_loss(student, teacher, 0.0, 1.0).item() == pytest.approx(columns, rel=1e-9)


def test_both_parts_reward_correlation():
    """A published variant adds the correlation instead of subtracting it."""
    teacher = torch.randn(8, 5, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(8, 5, generator=torch.Generator().manual_seed(2))
    for inter, intra in ((1.0, 0.0), (0.0, 1.0)):
        assert dist_loss(teacher + 0.1 * noise, teacher, inter, intra) < dist_loss(teacher + 3 * noise, teacher, inter, intra)


def test_where_the_correlation_is_always_1_it_is_refused():
    with pytest.raises(ValueError, match="inter: 0"):
        dist_loss(torch.randn(8, 2), torch.randn(8, 2))
    with pytest.raises(ValueError, match="intra: 0"):
        dist_loss(torch.randn(1, 5), torch.randn(1, 5))
    assert torch.isfinite(dist_loss(torch.randn(8, 2), torch.randn(8, 2), inter=0.0))


def gradient(student, teacher, temperature):
    student = student.clone().requires_grad_()
    return torch.autograd.grad(dist_loss(student, teacher, temperature=temperature), student)[0]


@pytest.mark.parametrize("spread", [0.0, 1e-8, 1e-6, 1e-4, 1e-2])
@pytest.mark.parametrize(("classes", "temperature"), [(10, 4.0), (100, 1.0), (1000, 1.0)])
def test_a_head_that_begins_with_zeros_has_a_bounded_gradient(spread, classes, temperature):
    generator = torch.Generator().manual_seed(3)
    teacher, student = (torch.randn(32, classes, generator=generator) for _ in range(2))
    found = gradient(spread * student, 5 * teacher, temperature)
    assert torch.isfinite(found).all()
    assert found.norm(dim=1).max() < 1e3
    assert found.abs().max() > 0, "a start from which nothing would be learnt"


def test_a_small_spread_is_still_a_spread():
    """Of logits that differ by hundredths, and of classes that hardly any sample belongs to: numpy's correlations."""
    generator = torch.Generator().manual_seed(4)
    student, teacher = 0.03 * torch.randn(16, 6, dtype=torch.float64, generator=generator), torch.randn(16, 6, generator=generator).double()
    teacher[:, 0] -= 5
    assert dist_loss(student, teacher).item() == pytest.approx(dist_reference(student.numpy(), teacher.numpy(), 1.0, 1.0, 1.0), rel=1e-9)
