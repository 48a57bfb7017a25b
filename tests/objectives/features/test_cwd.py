"""CWD against the formula, and where it degenerates."""

from dataclasses import replace

import pytest
import torch

from tests.objectives.features.steps import other_channels, reverse_channels, reverse_positions
from tests.reference.cwd import cwd_reference
from tests.reference.features import conv
from transfuse.objectives.features.cwd import CWD, cwd_loss
from transfuse.testing import QUICK, Particulars, check_objective


def shifted(step):
    features = {path: feature + feature[:, :, :1, :1] for path, feature in step.student.features.items()}
    return replace(step, student=replace(step.student, features=features))


INVARIANCE = {
    "a softmax ignores shifts of a channel": shifted,
    "channels have no order": reverse_channels,
    "positions have no order": reverse_positions,
}


def test_cwd_is_proved():
    check_objective(CWD, cwd_reference, zero_at_equality=True, invariance=INVARIANCE)


def with_a_bridge(student_features, teacher_features, state, temperature):
    student_features = conv(student_features, state["bridges.0.project.weight"], state["bridges.0.project.bias"])
    return cwd_reference(student_features, teacher_features, temperature)


def test_other_numbers_of_channels_are_bridged():
    particulars = Particulars(skip={"function": "takes features of one shape"})
    check_objective(CWD, with_a_bridge, {"temperature": 1.0}, make_step=other_channels, checks=QUICK, particulars=particulars)


def test_one_position_is_refused():
    with pytest.raises(ValueError, match="softmax over one position"):
        cwd_loss(torch.zeros(2, 3, 1, 1), torch.zeros(2, 3, 1, 1))
