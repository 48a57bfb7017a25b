"""Attention transfer against the formula in the paper's and in the code's form."""

import pytest
import torch

from tests.objectives.features.steps import features_times, reverse_channels, reverse_positions, stages
from tests.reference.attention_transfer import attention_transfer_reference
from transfuse.errors import ModelError
from transfuse.objectives.features.attention_transfer import AttentionTransfer, attention_transfer_loss
from transfuse.testing import QUICK, Particulars, check_objective

INVARIANCE = {
    "an attention map has length 1": features_times(0.5, 3.0),
    "channels have no order": reverse_channels,
    "positions have no order": reverse_positions,
}


def test_attention_transfer_is_proved():
    check_objective(AttentionTransfer, attention_transfer_reference, zero_at_equality=True, invariance=INVARIANCE)


@pytest.mark.parametrize("power", [2.0, 3.0])
def test_the_papers_form_is_proved(power):
    arguments = {"form": "paper", "power": power}
    check_objective(AttentionTransfer, attention_transfer_reference, arguments, zero_at_equality=True, invariance=INVARIANCE, checks=QUICK)


def test_pairs_of_taps_are_summed():
    particulars = Particulars(skip={"function": "takes one pair"})
    check_objective(AttentionTransfer, attention_transfer_reference, make_step=stages, checks=["value", "halves"], particulars=particulars)


def test_vectors_are_refused():
    with pytest.raises(ModelError, match="has no positions"):
        attention_transfer_loss(torch.zeros(2, 3), torch.zeros(2, 3))
