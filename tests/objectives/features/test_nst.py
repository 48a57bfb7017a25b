"""NST against sums over pairs of channels, through both Gram matrices."""

import pytest

from tests.objectives.features.steps import features_times, reverse_channels, reverse_positions, wide_step
from tests.reference.nst import nst_reference
from transfuse.objectives.features.nst import NST
from transfuse.testing import QUICK, check_objective

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
