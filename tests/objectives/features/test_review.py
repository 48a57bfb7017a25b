"""ReviewKD against loops over stages, fusions and pooled maps."""

import pytest
import torch

from tests.objectives.features.steps import reverse_channels, stages
from tests.reference.review import context_loss, review_reference
from transfuse.errors import ModelError
from transfuse.objectives.features.review import Review, review_loss
from transfuse.testing import Particulars, Sizes, check_objective


def function(objective, step):
    students, teachers = (list(signals.features.values()) for signals in (step.student, step.teacher))
    deeper, values = None, 0
    for number in (1, 0):
        out, deeper = objective.fusions[number](students[number], deeper, teachers[number].shape[2:])
        values = values + review_loss(out, teachers[number])
    return values


def test_review_is_proved():
    check_objective(Review, review_reference, make_step=stages, particulars=Particulars(function=function))


@pytest.mark.parametrize("side", [1, 2, 4, 7, 9])
def test_the_context_loss_pools_to_every_smaller_level(side):
    student, teacher = torch.randn(3, 4, side, side).double(), torch.randn(3, 4, side, side).double()
    expected = [context_loss(student[i : i + 1].numpy(), teacher[i : i + 1].numpy()) for i in range(3)]
    torch.testing.assert_close(review_loss(student, teacher), torch.tensor(expected, dtype=torch.float64))
    assert torch.equal(review_loss(teacher, teacher), torch.zeros(3, dtype=torch.float64))


def test_the_context_loss_has_no_order_of_channels():
    step = stages(Sizes())
    for one in (step, reverse_channels(step)):
        student, teacher = (signals.features["stage1"] for signals in (one.student, one.teacher))
        torch.testing.assert_close(review_loss(student, teacher), review_loss(student.flip(1), teacher.flip(1)))


def test_a_vector_is_a_stage_of_one_position_and_the_fused_width_is_bounded():
    objective = Review(width=6)
    shapes = {"layer1": (1, 8, 4, 4), "pool": (1, 16)}
    objective.build(shapes, {"layer1": (1, 12, 4, 4), "pool": (1, 24)})
    assert [fusion.reduce[0].out_channels for fusion in objective.fusions] == [6, 6]
    assert [fusion.expand[0].out_channels for fusion in objective.fusions] == [12, 24]
    assert [fusion.attention is None for fusion in objective.fusions] == [False, True]


def test_tokens_are_refused():
    with pytest.raises(ModelError, match="gives tokens"):
        Review().build({"norm": (1, 17, 8)}, {"norm": (1, 17, 8)})
