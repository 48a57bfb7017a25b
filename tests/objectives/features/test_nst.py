"""NST against sums over pairs of channels, through both Gram matrices."""

import pytest

from tests.objectives.features.steps import features_times, reverse_channels, reverse_positions, wide_step
from tests.reference.nst import nst_reference
from transfuse.core.bridges import same_size
from transfuse.objectives.features._pairs import channel_rows, unit_length
from transfuse.objectives.features.nst import NST, nst_loss
from transfuse.testing import QUICK, Particulars, check_objective

INVARIANCE = {
    "channels have length 1": features_times(0.5, 3.0),
    "channels have no order": reverse_channels,
    "positions have no order": reverse_positions,
}


def test_nst_is_proved():
    check_objective(NST, nst_reference, zero_at_equality=True, invariance=INVARIANCE)


@pytest.mark.parametrize("kernel", ["polynomial", "linear"])
def test_more_channels_than_positions_give_the_same_formula(kernel):
    checks = [name for name in QUICK if name != "small"]  # a gradient through the kit's small step is checked above
    check_objective(NST, nst_reference, {"kernel": kernel}, make_step=wide_step, invariance=INVARIANCE, checks=checks)


def test_the_linear_kernel_is_proved():
    check_objective(NST, nst_reference, {"kernel": "linear"}, zero_at_equality=True, invariance=INVARIANCE, checks=QUICK)


def width_held(objective, step, objective_0, step_0):
    student, teacher = (signals.features["stage1"] for signals in (step.student, step.teacher))
    pairs = same_size(step_0.student.features["stage1"], teacher)
    x, y = (unit_length(channel_rows(maps)) for maps in pairs)
    mean_square = (x[:, :, None] - y[:, None]).square().sum(3).mean((1, 2))
    return nst_loss(student, teacher, "gaussian", mean_square)


@pytest.mark.parametrize("make_step", [None, wide_step], ids=["maps", "wide"])
def test_the_gaussian_kernel_is_proved(make_step):
    checks = [name for name in QUICK if name != "small"] if make_step else QUICK
    particulars = Particulars(surrogate=width_held)
    settings = {"make_step": make_step, "invariance": INVARIANCE, "checks": checks, "particulars": particulars}
    check_objective(NST, nst_reference, {"kernel": "gaussian"}, zero_at_equality=make_step is None, **settings)
