"""FSP against the matrices of the paper, with maps of one size and of two."""

import pytest
import torch

from tests.objectives.features.steps import reverse_channels, reverse_positions, stages
from tests.reference.fsp import fsp_reference
from transfuse.objectives.features.fsp import FSP, fsp_loss
from transfuse.testing import QUICK, Particulars, Sizes, check_objective, example_step, map_tensors, run

# a matrix grows with the square of the features and its gradient with their cube, which float16 signals of 1e4 can't hold by definition
NOT_IN_FLOAT16 = Particulars(skip={"extreme": "the gradient for float16 features of 1e4 is larger than float16 holds"})
INVARIANCE = {"channels have no order": reverse_channels, "positions have no order": reverse_positions}


def three_taps(sizes):
    return example_step(sizes, taps=3)


def test_fsp_is_proved():
    check_objective(FSP, fsp_reference, make_step=three_taps, zero_at_equality=True, invariance=INVARIANCE, particulars=NOT_IN_FLOAT16)


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_larger_maps_are_pooled(pooling):
    arguments = {"pooling": pooling, "over": "sum"}
    check_objective(FSP, fsp_reference, arguments, make_step=stages, zero_at_equality=True, checks=QUICK, particulars=NOT_IN_FLOAT16)


def test_one_tap_is_refused():
    with pytest.raises(ValueError, match="between two taps"):
        fsp_loss([torch.zeros(2, 3, 4, 4)], [torch.zeros(2, 3, 4, 4)])


def test_other_channels_are_refused():
    one, other = torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4)
    with pytest.raises(ValueError, match="same numbers of channels"):
        fsp_loss([one, one], [one, other])


def test_features_of_ten_thousand_stay_finite_in_float32():
    step = map_tensors(three_taps(Sizes()), lambda path, tensor: 1e4 * tensor.float() if ".features." in path else tensor)
    outcome = run(FSP(), step)
    assert outcome.values.isfinite().all()
    assert all(gradient is None or gradient.isfinite().all() for gradient in outcome.gradients.values())
