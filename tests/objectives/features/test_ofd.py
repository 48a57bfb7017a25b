"""OFD against the formula with margins, and the margins against the mean of what is negative."""

import torch

from tests.objectives.features.steps import stages
from tests.reference.ofd import ofd_reference
from transfuse.objectives.features.ofd import OFD, ofd_loss
from transfuse.testing import QUICK, Particulars, Sizes, build, check_objective, example_step


def prepare(objective, step):
    build(objective, step)
    for margins in objective.margins():
        margins.copy_(-torch.rand(len(margins)))


def function(objective, step):
    (student,), (teacher,) = step.student.features.values(), step.teacher.features.values()
    return ofd_loss(*objective.bridges[0](student, teacher), objective.margins()[0])


def test_ofd_is_proved():
    check_objective(OFD, ofd_reference, particulars=Particulars(function=function, prepare=prepare))


def test_earlier_taps_weigh_half():
    particulars = Particulars(prepare=prepare, skip={"function": "takes one pair"})
    check_objective(OFD, ofd_reference, make_step=stages, checks=QUICK, particulars=particulars)


def test_what_a_relu_hides_costs_nothing():
    student, teacher = torch.tensor([[-3.0, -0.5, 2.0, 1.0]]), torch.tensor([[-1.0, -2.0, 2.0, -2.0]])
    value = ofd_loss(student, teacher, torch.full((4,), -1.0))
    # -3 is below -1: free; -0.5 is above the margin -1: 0.25; 2 is 2: 0; 1 is 2 above the margin: 4
    torch.testing.assert_close(value, torch.tensor([4.25]))


def test_margins_are_the_mean_of_negative_responses_over_all_steps_in_training():
    objective, steps = OFD(), [example_step(Sizes(seed=seed), taps=1) for seed in range(3)]
    build(objective, steps[0])
    objective.double()
    objective.eval()(steps[0])
    assert torch.equal(objective.margins()[0], torch.zeros(6).double())
    objective.train()
    for step in steps:
        objective(step)
    means = []
    for step in steps:
        feature = step.teacher.features["stage1"]
        means.append(torch.stack([feature[:, c][feature[:, c] < 0].mean() for c in range(6)]))
    torch.testing.assert_close(objective.margins()[0], torch.stack(means).mean(0))


def test_behind_a_relu_the_margin_is_zero():
    step = example_step(Sizes(), taps=1)
    step.teacher.features["stage1"].relu_()
    objective = OFD()
    build(objective, step)
    objective.double().train()(step)
    assert torch.equal(objective.margins()[0], torch.zeros(6).double())
