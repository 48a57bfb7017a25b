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
