"""AB against the two hinges of the paper."""

import torch

from tests.objectives.features.steps import other_channels, stages
from tests.reference.ab import ab_reference
from transfuse.objectives.features.ab import AB, ab_loss
from transfuse.testing import QUICK, Particulars, check_objective, map_tensors


def function(objective, step):
    (student,), (teacher,) = step.student.features.values(), step.teacher.features.values()
    return ab_loss(*objective.bridges[0](student, teacher), objective.margin)


def teacher_times_seven(step):
    return map_tensors(step, lambda path, tensor: 7 * tensor if "teachers" in path and ".features." in path else tensor)


SIGNS = {"only the teacher's signs matter": teacher_times_seven}


def test_ab_is_proved():
    check_objective(AB, ab_reference, invariance=SIGNS, particulars=Particulars(function=function))


def test_earlier_taps_weigh_half():
    particulars = Particulars(skip={"function": "takes one pair"})
    check_objective(AB, ab_reference, {"margin": 0.5}, stages, invariance=SIGNS, checks=QUICK, particulars=particulars)


def test_the_authors_leave_out_the_bridge_where_channels_agree():
    arguments = {"bridge": "channels_differ"}
    check_objective(AB, ab_reference, arguments, invariance=SIGNS, checks=QUICK)
    check_objective(AB, ab_reference, arguments, other_channels, checks=["value", "gradient"])


def test_beyond_the_margin_nothing_is_asked():
    teacher = torch.tensor([[0.1, 5.0, -0.1, -5.0]])
    assert ab_loss(1.5 * teacher.sign(), teacher).item() == 0
    assert ab_loss(-teacher.sign(), teacher).item() == 4 * 2.0**2
