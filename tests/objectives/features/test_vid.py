"""VID against a Gaussian likelihood; its variances are trained, unlike in one well-known library."""

import math

import torch

from tests.objectives.features.steps import token_step
from tests.reference.vid import vid_reference
from transfuse.objectives.features.vid import VID, vid_loss
from transfuse.testing import Particulars, Sizes, build, check_objective


def function(objective, step):
    (student,), (teacher,) = step.student.features.values(), step.teacher.features.values()
    student, teacher = objective.bridges[0](student, teacher)
    return vid_loss(objective.heads[0](student), teacher, objective.variances()[0])


def test_vid_is_proved():
    check_objective(VID, vid_reference, particulars=Particulars(function=function))


def test_it_is_the_likelihood_of_a_normal_distribution():
    predicted, teacher, variances = torch.randn(4, 3, 5, 5), torch.randn(4, 3, 5, 5), torch.rand(3) + 0.5
    normal = torch.distributions.Normal(predicted, variances.sqrt()[:, None, None])
    expected = -normal.log_prob(teacher).mean((1, 2, 3)) - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(vid_loss(predicted, teacher, variances), expected)


def test_variances_start_where_they_are_told_and_are_trained():
    objective, step = VID(initial_variance=3.0), token_step(Sizes())
    build(objective, step)
    torch.testing.assert_close(objective.variances()[0], torch.full((6,), 3.0))
    assert "spreads.0" in dict(objective.named_parameters())
